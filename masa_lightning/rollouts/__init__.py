"""Problems -> groups of rollouts -> verdicts and rewards; without Lightning."""
