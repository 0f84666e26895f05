r"""Inputs of the kinds that graders get wrong, each with a neighbour that has the other verdict. One row a case."""

import re

import pytest
from mutated_golds import mutations

from masa_lightning.functional.grading import checked_verdict, grade, quick_verdict

# kind: (box, gold) that are equal, (box, gold) that are not
CASES = {
    "tiny differences": (
        [
            (r"1-\frac{1}{2024!}", r"\frac{2024!-1}{2024!}"),
            (r"1-2^{-100}", r"\frac{2^{100}-1}{2^{100}}"),
            (r"\frac{1}{2}-\frac{1}{102!}", r"\frac{102!-2}{2\cdot 102!}"),
            (r"2-\frac{1}{2^{99}}", r"2-2^{-99}"),
            (r"1-e^{-500}", r"\frac{e^{500}-1}{e^{500}}"),
            (r"\sqrt{10^{60}+1}", r"(10^{60}+1)^{1/2}"),
            (r"10^{-40}", r"\frac{1}{10^{40}}"),
            (r"\frac{3^{200}-1}{2}", r"\frac{3^{200}}{2}-\frac12"),
            (r"\sqrt{2}+10^{-30}", r"10^{-30}+\frac{2}{\sqrt2}"),
            (r"\sum_{k=1}^{50} \frac{1}{k(k+1)}", r"\frac{50}{51}"),
        ],
        [
            (r"1-\frac{1}{2023!}", r"1-\frac{1}{2024!}"),
            (r"1-2^{-101}", r"1-2^{-100}"),
            (r"\frac{1}{2}-\frac{1}{102!}", r"\frac{1}{2}-\frac{1}{101!}"),
            (r"2-\frac{1}{2^{99}}", r"2-\frac{1}{2^{100}}"),
            (r"2", r"2-\frac{1}{2^{100}}"),
            (r"1-e^{-500}", r"1-e^{-501}"),
            (r"\sqrt{10^{60}+1}", r"10^{30}"),
            (r"10^{-40}", r"0"),
            (r"10^{-40}", r"10^{-41}"),
            (r"\frac{3^{200}-1}{2}", r"\frac{3^{200}}{2}"),
            (r"\sqrt{2}+10^{-30}", r"\sqrt{2}"),
            (r"\sqrt{2}+10^{-30}", r"\sqrt{2}+10^{-31}"),
            (r"e^{\pi\sqrt{163}}", r"640320^3+744"),
            (r"1-\sin(10^{-50})", r"1"),
            (r"(0, 1-2^{-90})", r"(0, 1-2^{-91})"),
        ],
    ),
    "rounded decimals": (
        [
            ("1.414214", r"\sqrt2"),
            ("0.333333", r"\frac13"),
            ("3.141593", r"\pi"),
            ("0.166667", "1/6"),
            (r"\frac{\sqrt3}{2}", "0.866025"),
            ("2.718282", "e"),
            ("0.693147", r"\ln 2"),
            ("12.566371", r"4\pi"),
            (r"0.5\pi", r"\frac{\pi}{2}"),
        ],
        [
            ("1.4142", r"\sqrt2"),
            ("0.3333", r"\frac13"),
            ("3.14", r"\pi"),
            ("1023.9999999", r"2^{10}"),
            ("1.414214", r"\sqrt2+10^{-5}"),
            ("0.0000001", r"10^{-8}"),
            ("0.333333x", r"\frac{x}{3}"),
            ("1.414214", "1.4142136"),
            ("2.0000001", r"\sqrt4"),
        ],
    ),
    "upright letters": (
        [
            (r"1-5i", r"1-5\mathrm{i}"),
            (r"2\mathrm{i}", "2i"),
            (r"\mathrm{e}^2", "e^2"),
            (r"3\mathrm{e}", "3e"),
            (r"\text{i}", "i"),
            (r"e^{\mathrm{i}\pi}", "-1"),
            (r"-\mathrm{i}", "-i"),
            (r"\frac{1+\mathrm{i}}{2}", r"\frac12+\frac i2"),
            (r"(2+\mathrm{i})^2", "3+4i"),
        ],
        [
            ("2", r"2\mathrm{i}"),
            (r"2\mathrm{i}", "2"),
            (r"1-5\mathrm{i}", "1+5i"),
            (r"3\mathrm{e}", "3"),
            ("3", r"3\mathrm{e}"),
            (r"5\mathrm{i}", r"5\mathrm{e}"),
            ("5 xy", "5"),
            ("5", "5 xy"),
            ("7ab", "7"),
            (r"\mathrm{i}", "1"),
        ],
    ),
    "split at =": (
        [
            (r"\sum_{k=1}^{n} k", r"S=\sum_{k=1}^{n} k"),
            (r"S=\sum_{k=1}^{n} k", r"\sum_{k=1}^{n} k"),
            (r"\sum_{k=1}^{n} k", r"\frac{n(n+1)}{2}"),
            (r"T_n=\prod_{i=1}^{n} i", r"\prod_{i=1}^{n} i"),
            (r"a=7\quad b=2", r"a=7, b=2"),
            (r"b=2 \qquad a=7", r"a=7\quad b=2"),
            (r"a=7 \\ b=2", r"a=7, b=2"),
            (r"\begin{cases}x=1\\y=2\end{cases}", r"x=1, y=2"),
            (r"\begin{aligned}x&=1\\y&=2\end{aligned}", r"x=1,\quad y=2"),
            (r"x=1 \text{ and } y=2", r"y=2,\ x=1"),
            (r"x=1\quad y=2", r"(x,y)=(1,2)"),
            (r"\sum_{k=1}^{5} k^2", "55"),
        ],
        [
            (r"S=2^{100}+\sum_{k=1}^{n} k", r"S=\sum_{k=1}^{n} k"),
            (r"\sum_{k=2}^{n} k", r"S=\sum_{k=1}^{n} k"),
            (r"1}^{n} k", r"\sum_{k=1}^{n} k"),
            (r"a=7\quad b=2", r"a=1\quad b=2"),
            (r"b=2", r"a=7\quad b=2"),
            (r"2", r"a=7\quad b=2"),
            (r"a=7 \\ b=3", r"a=7 \\ b=2"),
            (r"\begin{cases}x=1\\y=3\end{cases}", r"x=1, y=2"),
            (r"x=2\quad y=1", r"(x,y)=(1,2)"),
            (r"a=2\quad b=7", r"a=7\quad b=2"),
            (r"\prod_{k=1}^{n} k", r"S=\sum_{k=1}^{n} k"),
            (r"x=3=5", "5"),
        ],
    ),
    "names of quantities": (
        [
            ("m+n=17", "17"),
            ("f(2)=5", "5"),
            (r"P(A)=\frac13", r"\frac13"),
            (r"|z|=\sqrt5", r"\sqrt5"),
            ("a+b+c = 12", "12"),
            (r"P(A \cup B) = 0.7", "0.7"),
            ("100a+10b+c = 372", "372"),
            ("pq = 6", "6"),
            (r"\angle ABC = 40", "40"),
            ("x_1 = 3", "3"),
            (r"\frac{m}{n} = \frac{3}{4}", r"\frac34"),
            (r"\sin\theta = \frac35", r"\frac35"),
            ("5", "f(2)=5"),
            (r"AB = 2\sqrt{3}", r"\sqrt{12}"),
            (r"\text{Area} = 24", "24"),
            ("a = b + 1 = 5", "5"),
        ],
        [
            ("m+n=17", "18"),
            ("f(2)=5", "2"),
            ("x=3", "y=3"),
            ("f(2)=5", "f(3)=5"),
            ("z = 2x+1", "y=2x+1"),
            ("x^2+y^2=25", "25"),
            ("5", "x+y=5"),
            ("2x+1=7", "7"),
            ("2x=6", "6"),
            ("2x+3y=5", "5"),
            ("1", "y=2x+1"),
            ("y = 3x+1", "y=2x+1"),
            (r"|z|=\sqrt5", "5"),
        ],
    ),
    "value of an expression": (
        [
            ("85 + 15 = 100", "100"),
            (r"2\cdot 3 = 6", "6"),
            (r"\frac12 = 0.5", "0.5"),
            (r"\frac13 = 0.33", r"\frac13"),
            ("3^2+4^2 = 5^2 = 25", "25"),
            (r"\sqrt{16} = 4", "4"),
            ("7 - 9 = -2", "-2"),
            (r"\frac{10}{4} = \frac{5}{2}", "2.5"),
        ],
        [
            ("85 + 15 = 100", "85"),
            ("85 + 15 = 100", "15"),
            ("85 + 16 = 101", "100"),
            (r"\frac12 = 0.6", "0.6"),
            ("3 = 5", "5"),
            (r"\sqrt{16} = 4", "16"),
            ("7 - 9 = 2", "-2"),
            (r"\frac13 = 0.33", "0.33"),
        ],
    ),
    "approximation": (
        [
            (r"10\sqrt{5} \approx 22.36", r"10\sqrt5"),
            (r"\frac{22}{7} \approx 3.14", r"\frac{22}{7}"),
            (r"x = \sqrt2 \approx 1.414", r"\sqrt2"),
            (r"\approx 3.5", "3.5"),
            (r"x \approx 3.5", "3.5"),
            (r"\pi ≈ 3.14", r"\pi"),
            (r"\ln 2 \approx 0.693", r"\ln 2"),
            (r"8\pi \approx 25.13", r"8\pi"),
        ],
        [
            (r"10\sqrt{5} \approx 22.36", r"10\sqrt6"),
            (r"\frac{22}{7} \approx 3.14", r"\pi"),
            (r"x = \sqrt3 \approx 1.414", r"\sqrt2"),
            (r"\approx 3.5", "3.6"),
            (r"5 \approx 6", "6"),
            (r"22.36 \approx 10\sqrt5", r"10\sqrt5"),
            (r"7\pi \approx 25.13", r"8\pi"),
            (r"y \approx 3.5", "x = 3.5"),
        ],
    ),
    "unread formulas": (
        [
            (r"\frac23E_{2}+\frac13E_{1}", r"\frac13E_{1}+\frac23E_{2}"),
            (r"\frac{1}{3}(E_1+2E_2)", r"\frac13E_{1}+\frac23E_{2}"),
            (r"\oint_C x", r"\oint_C x"),
            (r"2\vec{a}+\vec{b}", r"\vec{b}+2\vec{a}"),
            (r"\theta+2\phi", r"2\phi+\theta"),
            (r"\overline{AB}+2", r"2+\overline{AB}"),
            (r"x'+2", r"2+x'"),
            (r"\frac{h(a+b)}{2}", r"\frac12h(b+a)"),
        ],
        [
            ("2/3", r"\frac13E_{1}+\frac23E_{2}"),
            (r"\frac13E_{2}+\frac23E_{1}", r"\frac13E_{1}+\frac23E_{2}"),
            ("5", r"3 \star 5"),
            ("7", r"\int_0^1 f(x) dx + 7"),
            ("2", r"\lim_{x \to 2} g"),
            (r"2\vec{a}", "2a"),
            ("2x'", "2x"),
            (r"\frac{dy}{dx}", r"\frac{y}{x}"),
            ("1/2x", "x/2"),
            ("5!!", "(5!)!"),
            (r"f(2x)", r"2f(x)"),
            (r"\overline{AB}", "AB"),
        ],
    ),
    "several boxes in a gold": (
        [
            ("1, 2", r"\boxed{1} and \boxed{2}"),
            (r"\{2, 1\}", r"\boxed{1}, \boxed{2}"),
            (r"1 \text{ and } 2", r"The answers are \boxed{1} and \boxed{2}."),
            ("2", r"so \boxed{2}, that is \boxed{2}"),
            (r"x=1, x=2", r"\boxed{1} \text{ or } \boxed{2}"),
            ("3", r"\boxed{\boxed{3}}"),
            (r"\frac12, -\frac12", r"\boxed{\frac{1}{2}} and \boxed{-\frac{1}{2}}"),
            ("1,2,3", r"\boxed{1}, \boxed{2} and \boxed{3}"),
        ],
        [
            ("2", r"\boxed{1} and \boxed{2}"),
            ("1", r"\boxed{1} and \boxed{2}"),
            ("3", r"\boxed{1}, \boxed{2}, \boxed{3}"),
            ("1, 3", r"\boxed{1} and \boxed{2}"),
            ("1, 2, 3", r"\boxed{1} and \boxed{2}"),
            ("12", r"\boxed{1} and \boxed{2}"),
            ("1, 1", r"\boxed{1} and \boxed{2}"),
            (r"\frac12", r"\boxed{\frac{1}{2}} and \boxed{-\frac{1}{2}}"),
        ],
    ),
    "powers of ten": (
        [
            ("1500", "1.5e3"),
            (r"6.02\times10^{23}", "6.02e23"),
            (r"10^{-5}", "1e-05"),
            ("0.00001", "1e-05"),
            (r"2.5\cdot 10^{-4}", "2.5e-4"),
            (r"3\times 10^8", "3e8"),
            ("-1.5E3", "-1500"),
            (r"1.5\times10^{3}", r"15\times10^{2}"),
        ],
        [
            ("4.5e", "1.5e3"),
            ("1.5e", "1.5e3"),
            (r"1.5e^3", "1.5e3"),
            (r"6.02\times10^{22}", "6.02e23"),
            (r"10^{-4}", "1e-05"),
            (r"2.5\cdot 10^{-5}", "2.5e-4"),
            ("3e", "3e8"),
            (r"1.5\times10^{3}", r"1.5\times10^{4}"),
        ],
    ),
    "brackets at infinity": (
        [
            (r"[8,\infty)", r"[8,\infty)"),
            (r"(-\infty,-8]\cup[8,\infty)", r"[8,\infty) \cup (-\infty,-8]"),
            (r"x\ge 8", r"[8,\infty)"),
            (r"(-\infty, 3)", "x<3"),
            (r"(-\infty,\infty)", r"\mathbb{R}"),
            (r"[8,+\infty)", r"[8,\infty)"),
            (r"[\sqrt{64},\infty)", r"[8,\infty)"),
            (r"\left(-\infty,-8\right]", r"(-\infty,-8]"),
        ],
        [
            (r"[8,\infty]", r"[8,\infty)"),
            (r"(-\infty,-8]\cup[8,\infty]", r"(-\infty,-8]\cup[8,\infty)"),
            (r"[-\infty,-8]\cup[8,\infty)", r"(-\infty,-8]\cup[8,\infty)"),
            (r"[-\infty, 3)", "x<3"),
            (r"[-\infty,\infty]", r"\mathbb{R}"),
            (r"(8,\infty)", r"[8,\infty)"),
            (r"[8,-\infty)", r"[8,\infty)"),
            (r"[8,\infty)", r"[8,9)"),
        ],
    ),
    "arrays": (
        [
            (
                r"\begin{pmatrix}12&-7\\-5&3\end{pmatrix}",
                r"\left[\begin{array}{rr}12 & -7 \\ -5 & 3\end{array}\right]",
            ),
            (r"\begin{bmatrix}1\\2\end{bmatrix}", r"\left(\begin{array}{c}1\\2\end{array}\right)"),
            (r"\begin{pmatrix}2/4&1\end{pmatrix}", r"\begin{bmatrix}\frac12&1\end{bmatrix}"),
            (r"A = \begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"),
            (r"\frac{1}{2}\begin{pmatrix}2\\4\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
            (r"-\begin{pmatrix}2\\4\end{pmatrix}", r"\begin{pmatrix}-2\\-4\end{pmatrix}"),
            (r"\begin{pmatrix}1\\2\\\end{pmatrix}", r"\begin{pmatrix}1\\[2pt]2\end{pmatrix}"),
            (r"\begin{pmatrix}\sqrt{12}\\0\end{pmatrix}", r"\begin{pmatrix}2\sqrt3\\0\end{pmatrix}"),
            (r"\begin{pmatrix}-10\\6\end{pmatrix}", r"\begin{pmatrix}-10\6\end{pmatrix}"),
        ],
        [
            (
                r"\begin{pmatrix}12&-7\\-5&4\end{pmatrix}",
                r"\left[\begin{array}{rr}12 & -7 \\ -5 & 3\end{array}\right]",
            ),
            (r"\begin{bmatrix}2\\1\end{bmatrix}", r"\left(\begin{array}{c}1\\2\end{array}\right)"),
            (r"\begin{pmatrix}1&2\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
            (r"\begin{pmatrix}1&3\\2&4\end{pmatrix}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"),
            (r"\frac{1}{2}\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
            (r"-\begin{pmatrix}2\\4\end{pmatrix}", r"\begin{pmatrix}2\\4\end{pmatrix}"),
            (r"\begin{pmatrix}1\\2\\3\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
            (r"\begin{vmatrix}1&2\\3&4\end{vmatrix}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"),
            ("12", r"\begin{pmatrix}1\\2\end{pmatrix}"),
        ],
    ),
    "lists": (
        [
            (r"19, 46, \text{ and } 82", "19, 46, 82"),
            ("1, 2, and 3", "1,2,3"),
            (r"1 \text{, or } 2", "1,2"),
            ("a, b and c", "a,b,c"),
            (r"1;\ 2;\ 3", "3,2,1"),
            (r"(1,2), (3,4)", r"(3,4),(1,2)"),
            (r"(\sqrt4,2) \text{ and } (3,4)", "(2,2),(3,4)"),
            (r"\langle 1, 2\rangle", "(1,2)"),
            (r"x=1 \text{ or } x=2", "1, 2"),
            (r"\pm\sqrt{5}", r"\sqrt5, -\sqrt5"),
        ],
        [
            (r"19, 46, \text{ and } 83", "19, 46, 82"),
            ("1, 2, and 4", "1,2,3"),
            (r"1 \text{, or } 2", "1,2,3"),
            ("12 and 3", "1,2,3"),
            (r"(1,2), (4,3)", r"(3,4),(1,2)"),
            (r"(2,1), (3,4)", r"(3,4),(1,2)"),
            (r"\langle 2, 1\rangle", "(1,2)"),
            (r"1,2,2", "1,2"),
            ("(1,2,2)", "(1,2)"),
            (r"\pm\sqrt{5}", r"\sqrt5"),
        ],
    ),
    "sets": (
        [
            (r"x<2 \text{ or } x>3", r"(-\infty,2)\cup(3,\infty)"),
            (r"(3,\infty) \cup (-\infty,2)", r"(-\infty,2)\cup(3,\infty)"),
            (r"\mathbb{R}\setminus[2,3]", r"(-\infty,2)\cup(3,\infty)"),
            (r"x \ne 3", r"x \neq 3"),
            (r"x \ne 3", r"\mathbb{R}\setminus\{3\}"),
            (r"(-\infty,3)\cup(3,\infty)", r"x \neq 3"),
            (r"\{x \mid x > 2\}", r"(2,\infty)"),
            (r"\{x : x \ge 2\}", r"x\geq 2"),
            (r"\{x \in \mathbb{R} \mid x \neq 1\}", r"\mathbb{R}-\{1\}"),
            (r"x>0 \text{ and } x<1", "(0,1)"),
            ("0<x<1", "(0,1)"),
            (r"1 \ge x \ge 0", "[0,1]"),
            (r"x\in(1,2)", "1<x<2"),
            (r"2x<4", "x<2"),
            (r"x\neq 1, 2", r"(-\infty,1)\cup(1,2)\cup(2,\infty)"),
            (r"\varnothing", r"\emptyset"),
            (r"[1,2)\cup\{2\}", "[1,2]"),
            (r"x \notin \{1,2\}", r"\mathbb{R}\setminus\{2,1\}"),
        ],
        [
            (r"x<2 \text{ or } x>4", r"(-\infty,2)\cup(3,\infty)"),
            (r"x\le2 \text{ or } x>3", r"(-\infty,2)\cup(3,\infty)"),
            (r"x<2 \text{ and } x>3", r"(-\infty,3)"),
            (r"\mathbb{R}\setminus(2,3)", r"(-\infty,2)\cup(3,\infty)"),
            (r"x \ne 4", r"x \neq 3"),
            (r"x = 3", r"x \neq 3"),
            (r"3", r"x \neq 3"),
            (r"x \ne 3", r"\mathbb{R}\setminus\{4\}"),
            (r"y \ne 3", r"x \ne 3"),
            (r"\{x \mid x \ge 2\}", r"(2,\infty)"),
            (r"\{x \mid x < 2\}", r"(2,\infty)"),
            ("0<x<1", "[0,1]"),
            ("0<x<1", r"(0,1)\cup(1,2)"),
            ("x<2", "y<2"),
            (r"2x<4", "x>2"),
            (r"-2x<4", "x<-2"),
            (r"\emptyset", r"\{0\}"),
            (r"(1,2)\cup(3,4)", r"(1,2)\cap(3,4)"),
            (r"x \notin \{1,2\}", r"\{1,2\}"),
        ],
    ),
    "ratios": (
        [
            ("4:6", "2:3"),
            ("2 : 3", "2:3"),
            ("1:2:3", "2:4:6"),
            (r"\frac12:1", "1:2"),
            (r"\sqrt{2}:2", r"1:\sqrt2"),
            ("10:15", "2:3"),
            ("0.5:1", "1:2"),
            (r"2x:4x", "1:2"),
        ],
        [
            ("4:6", "3:2"),
            ("3:2", "2:3"),
            ("1:2:4", "2:4:6"),
            ("1:2", "1:2:3"),
            (r"\sqrt{2}:2", r"1:2"),
            ("4:15", "8:30"),
            ("0:1", "0:2"),
            ("2", "2:3"),
        ],
    ),
    "repeats": (
        [
            (r"\{1,2,2\}", r"\{1,2\}"),
            (r"\{1,2\}", r"\{2,1,1\}"),
            (r"\{\sqrt4,2,1\}", r"\{1,2\}"),
            (r"\{0.5,\frac12\}", r"\{\frac{1}{2}\}"),
            (r"\{a,a,b\}", r"\{a,b\}"),
            (r"\{1,1,1\}", r"\{1\}"),
            (r"\{-1,1,-1\}", r"\{1,-1\}"),
            (r"\{x,2x-x\}", r"\{x\}"),
        ],
        [
            (r"\{1,2,3\}", r"\{1,2\}"),
            (r"\{1,1\}", r"\{1,2\}"),
            (r"\{1,2\}", r"\{1,2,3\}"),
            ("1,2,2", "1,2"),
            ("(1,2,2)", "(1,2)"),
            (r"\{\sqrt4,3\}", r"\{2\}"),
            (r"\{a,b\}", r"\{a\}"),
            ("[1,1]", "1"),
        ],
    ),
    "formulas": (
        [
            (r"\frac{\sqrt6+\sqrt2}{4}", r"\frac{\sqrt{2+\sqrt3}}{2}"),
            (r"\sin\frac{\pi}{8}", r"\frac{\sqrt{2-\sqrt2}}{2}"),
            (r"\arctan 2+\arctan 3", r"\frac{3\pi}{4}"),
            (r"\ln 6", r"\ln 2+\ln 3"),
            (r"\binom{10}{3}", "120"),
            (r"\frac{x^2-1}{x-1}", "x+1"),
            (r"2\sin x\cos x", r"\sin 2x"),
            (r"\sqrt[3]{-8}", "-2"),
            ("(x-1)(x+1)(x^2+1)", "x^4-1"),
            ("x^2+y^2=4", "4 = y^2 + x^2"),
            ("y = 2x+1", "2x - y + 1 = 0"),
            ("x+y<3", "3 > y+x"),
            (r"2\frac13\pi", r"\frac{7\pi}{3}"),
            (r"n!", r"n\cdot (n-1)!"),
            (r"\lfloor \pi \rfloor", "3"),
            (r"\max(2,\sqrt5)", r"\sqrt5"),
            (r"a<b<c", r"c>b>a"),
        ],
        [
            (r"\frac{\sqrt6-\sqrt2}{4}", r"\frac{\sqrt{2+\sqrt3}}{2}"),
            (r"\cos\frac{\pi}{8}", r"\frac{\sqrt{2-\sqrt2}}{2}"),
            (r"\ln 5", r"\ln 2+\ln 3"),
            (r"\log x", r"\ln x"),
            (r"\binom{10}{4}", "120"),
            (r"\frac{x^2-1}{x-1}", "x-1"),
            (r"|x-100|", "100-x"),
            (r"\sqrt{x^2}", "x"),
            ("A+a", "2a"),
            ("x^2+y^2=4", "x^2+y^2=2"),
            ("y = 2x+1", "y = 2x-1"),
            ("x+y<3", "x+y>3"),
            ("x+y<3", r"x+y\le 3"),
            (r"2\cdot\frac13\pi", r"\frac{7\pi}{3}"),
            (r"n!", r"n(n-1)"),
            (r"a<b<c", r"a<c<b"),
            (r"\frac00", r"\frac10"),
        ],
    ),
    "conventions": (
        [
            (r"10\%", "0.1"),
            (r"10\%", "10"),
            ("x=5", "5"),
            ("5", "x=5"),
            (r"\boxed 5", "5"),
            ("101", "101_2"),
            (r"90^\circ", "90"),
            ("(1,2)", "1,2"),
        ],
        [
            ("0.1", "10"),
            (r"10\%", "0.01"),
            ("x=5", "y=5"),
            ("ABC", "abc"),
            ("x", "X"),
            ("101_2", "101_3"),
            ("(1,2)", "[1,2]"),
            ("(1,2)", "2,1"),
        ],
    ),
}
RIGHT = [(kind, *row) for kind, (right, _) in CASES.items() for row in right]
WRONG = [(kind, *row) for kind, (_, wrong) in CASES.items() for row in wrong]


@pytest.mark.parametrize(("kind", "box", "gold"), RIGHT)
def test_right(kind: str, box: str, gold: str) -> None:
    text = rf"Thus $\boxed{{{box}}}$."
    assert grade(text, gold) is True
    assert quick_verdict(text, gold) is not False
    assert grade(rf"\boxed{{{box}}}", rf"{box}") is True


@pytest.mark.parametrize(("kind", "box", "gold"), WRONG)
def test_wrong(kind: str, box: str, gold: str) -> None:
    text = rf"Thus $\boxed{{{box}}}$."
    assert grade(text, gold) is False
    assert quick_verdict(text, gold) is not True
    assert checked_verdict(text, gold) is False


@pytest.mark.parametrize("kind", CASES)
def test_each_kind_has_right_and_wrong_neighbours(kind: str) -> None:
    right, wrong = CASES[kind]
    assert len(right) >= 8 and len(wrong) >= 8
    assert not set(right) & set(wrong)


GOLDS = sorted(
    {gold for right, wrong in CASES.values() for _, gold in right + wrong if not re.search(r"boxed|\dpt\]", gold)}
)


@pytest.mark.parametrize("gold", GOLDS)
def test_a_gold_with_one_thing_changed_is_wrong(gold: str) -> None:
    assert grade(rf"\boxed{{{gold}}}", gold) is True
    for kind, changed in mutations(gold):
        assert grade(rf"\boxed{{{changed}}}", gold) is False, (kind, changed)
        assert grade(rf"\boxed{{{gold}}}", changed) is False, (kind, changed)


HOSTILE = [
    r"9^{9^{9^{9}}}",
    r"10^{10^{10^{10}}}",
    r"2^{2^{2^{2^{2^{2}}}}}",
    r"9999999999!",
    r"((5!)!)!",
    r"\binom{1000000000}{500000000}",
    r"\sum_{k=1}^{10^9} \frac{1}{k}",
    r"\sum_{k=1}^{2000} \frac{1}{k!}",
    r"\sum_{i=1}^{1000}\sum_{j=1}^{1000}\sum_{k=1}^{1000} \frac{1}{ijk}",
    r"\prod_{k=1}^{2000} k!",
    r"\sum_{k=1}^{\infty} \frac{1}{k^2}",
    r"\int_0^1 \int_0^1 e^{e^{xy}} dx dy",
    r"e^{e^{e^{e^{e}}}}",
    r"x^{x^{x^{x}}}",
    r"(x+y+z)^{1000000}",
    r"\sin(10^{10^{10}})",
    r"\sqrt[10^{10}]{2}",
    r"2^{-10^{12}}",
    r"\log_{2}(2^{2^{30}})",
    r"\gcd(10^{10^7},6)",
    r"\lfloor 9^{9^9} \rfloor",
    r"\frac{9^{9^9}}{9^{9^9}}",
    r"(-\infty,9^{9^9})\cup(9^{9^{9}},\infty)",
    r"9^{9^9}x<5",
    r"9^{9^9}:2",
    r"9^{9^9}x+y=1",
    r"(1+i)^{10^{9}}",
    r"(n!)!",
    r"\prod_{k=1}^{2000}\sum_{j=1}^{2000}\sin(jk)",
    "(" * 600 + "x" + ")" * 600,
    "\\sqrt{" * 250 + "2" + "}" * 250,
    "\\sum_{k=1}^{2}" * 100 + "k",
    "\\{x\\mid " * 150 + "x<1" + "\\}" * 150,
    "+".join(f"\\sin({k})" for k in range(2, 180)),
    "+".join(f"\\frac{{1}}{{{60 * k}!}}" for k in range(2, 110)),
    " or ".join(f"(x+{k})(x-{k})<\\sqrt{{2}}" for k in range(2, 60)),
    ",".join(f"(\\sqrt{{{k}}},{k})" for k in range(2, 66)),
    ":".join(f"\\sqrt{{{k}}}" for k in range(2, 150)),
    "\\begin{pmatrix}" * 100,
    "\\text{" * 300 + "}" * 300,
    "\\pm 1," * 200,
    "5" + "!" * 1000,
]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("formula", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_formulas_end(formula: str) -> None:
    assert grade(rf"\boxed{{{formula}}}", r"\sqrt{7}") is False
    assert grade(rf"\boxed{{{formula}+1}}", formula) is False
    assert grade(r"\boxed{x<3 \text{ or } x>\sqrt{5}}", formula) is False
