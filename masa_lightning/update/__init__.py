"""Rollouts with advantages -> optimiser steps; without Lightning."""
