"""What counts as the right answer of a maths problem, case by case."""

from es_lightning.tasks.answers.math_answers import final_answer
from es_lightning.tasks.answers.math_equal import answers_equal

# One case a line: gold answer, reply, whether it counts. A reply without a box is put into one.
CASES = r"""
# numbers
12 | 12 | yes
12 | 012 | yes
12 | 12.0 | yes
12 | 12.00 | yes
12 | +12 | yes
12 | 12. | yes
12 | $12$ | yes
12 | **12** | yes
12 | -12 | no
12 | 13 | no
3 | 13 | no
12 | 1 2 | no
12 | 12.01 | no
-3 | − 3 | yes
-3 | -(3) | yes
-3 | 3 | no
0.5 | .5 | yes
3.5 | 3.50 | yes
3.5 | 3,5 | no
3.5 | 35 | no
10000 | 10,000 | yes
10,000 | 10000 | yes
10{,}000 | 10000 | yes
10\,000 | 10,\!000 | yes
10000 | 10 000 | yes
10000 | 10,00 | no
1234567 | 1,234,567 | yes
1234567 | 1,234,568 | no
6.5\times 10^3 | 6500 | yes
6.5e3 | 6.5 \cdot 10^{3} | yes
6.5e-7 | 6.5\times10^{-7} | yes
6.5e-7 | 6.6\times10^{-7} | no
1e-9 | 2e-9 | no
10^{-20} | 0 | no
2000000 | 2 million | yes
5 | 5 million | no
2^{10} | 1024 | yes
0.1\overline{6} | \frac{1}{6} | yes
0.\overline{3} | 1/3 | yes
0.\overline{3} | 0.3 | no
0 | \infty | no
0 | nan | no
# fractions
1/2 | 0.5 | yes
1/2 | 12 | no
1/2 | \frac12 | yes
1/2 | \frac{1}{2} | yes
1/2 | \dfrac{1}{2} | yes
1/2 | \tfrac 1 2 | yes
1/2 | \frac1{2} | yes
1/2 | \frac{2}{4} | yes
1/2 | \frac{2}{1} | no
1/2 | 2/1 | no
-\frac{1}{2} | \frac{-1}{2} | yes
-\frac{1}{2} | \frac{1}{-2} | yes
-\frac{1}{2} | -0.5 | yes
-\frac{1}{2} | \frac{-1}{-2} | no
1/3 | 0.333 | no
1/3 | 0.333333333 | no
1/0 | 0 | no
3/2 | 1\frac12 | yes
3/2 | 1\frac{1}{2} | yes
3/2 | 1 1/2 | yes
1\frac{1}{2} | 1.5 | yes
1\frac12 | 11/2 | no
11/2 | 1 1/2 | no
\frac{3}{4}x | 0.75x | yes
# percent, money, units
50\% | 50 | yes
50\% | 50% | yes
50\% | 50 percent | yes
50\% | 0.5 | yes
50 | 50\% | yes
0.5 | 50\% | yes
1/2 | 50\% | yes
50\% | 0.5\% | no
50 | 0.5 | no
5 | \$5 | yes
\$5 | 5 | yes
5 | 5 dollars | yes
1,800 | \$1,800.00 | yes
5 | 5 cm | yes
5 | 5\text{ cm} | yes
5 | 5 \mathrm{~cm} | yes
5 | 5\,\text{cm}^2 | yes
5 | 5 square centimeters | yes
5\text{ cm}^2 | 5\text{ square cm} | yes
5\text{ cm} | 5\text{ cm}^2 | no
5 cm | 5 m | no
5\text{ minutes} | 5\text{ hours} | no
5\text{ hours} | 5\text{ hrs} | yes
5 | 5 months | yes
5 | 5c | no
3 | 3s | no
2 | 2 pi | no
2 | 2\text{ thirds} | no
90 | 90^\circ | yes
90^\circ | 90^{\circ} | yes
90^\circ | 90 degrees | yes
90^\circ | 90° | yes
90^\circ | 9^\circ | no
2\pi | 2\pi\text{ cm} | yes
# names
5 | x=5 | yes
x=5 | 5 | yes
x=5 | x = 5 | yes
x=5 | 5=x | yes
x=5 | y=5 | no
x=5 | x=6 | no
5 | x=2+3=5 | yes
5 | \text{Area} = 5 | yes
5 | x+y=5 | no
5 | 2x=5 | no
5 | \frac{x}{2}=5 | no
y=2x+3 | 2x+3 | yes
y=2x+3 | 2x-y+3=0 | yes
y=2x+3 | 2x-y-3=0 | no
f(x)=x^2 | x^2 | yes
2x+y=1 | 4x+2y=2 | yes
2x+y=1 | 2x+y=2 | no
2x+y=1 | 1 | no
(x,y)=(1,2) | (1,2) | yes
# brackets and lists
(1,2) | (1, 2) | yes
(1,2) | \left(1,\,2\right) | yes
(1,2) | (2,1) | no
(1,2) | [1,2] | no
(1,2) | \{1,2\} | no
[1,2] | \{1,2\} | no
[1,2] | (1,2) | no
[0,1) | [0,1] | no
[0,1) | \left[0, 1\right) | yes
(1,2) | (1,2,3) | no
(1,2) | 1 | no
(0.5,2) | (\frac12, \frac42) | yes
\{1,2\} | \{2, 1\} | yes
\{1,2\} | 2,1 | yes
\{1,2\} | \{1,2,3\} | no
\{1,2,2\} | \{1,2\} | yes
\{5\} | 5 | yes
1,2 | 2, 1 | yes
1,2 | 2 and 1 | yes
1,2 | x=1 \text{ or } x=2 | yes
1,2 | 1,2,2 | no
1,2 | 1 | no
1 | 1,2 | no
1,2,3 | 3,1,2 | yes
1,2,3 | 1,2,4 | no
1,1 | 1,2 | no
1,000, 2,000 | 1000, 2000 | yes
(1,3),(3,1) | (3,1), (1,3) | yes
(1,3),(3,1) | (1,3),(1,3) | no
1\pm\sqrt{2} | 1+\sqrt{2}, 1-\sqrt{2} | yes
1\pm\sqrt{2} | 1+\sqrt{2} | no
\pm 3 | 3,-3 | yes
x=1,y=2 | y=2,x=1 | yes
x=1,y=2 | x=2,y=1 | no
# intervals and inequalities
(-\infty,1)\cup(3,\infty) | (3,\infty)\cup(-\infty,1) | yes
(-\infty,1)\cup(3,\infty) | x<1 \text{ or } x>3 | yes
(-\infty,1)\cup(3,\infty) | (-\infty,1]\cup(3,\infty) | no
(-\infty,1)\cup(3,\infty) | (-\infty,1) | no
x>3 | (3,\infty) | yes
x>3 | 3<x | yes
x>3 | x\geq 3 | no
x>3 | y>3 | no
x>3 | x<3 | no
1<x\le 2 | (1,2] | yes
1<x\le 2 | x\in(1,2] | yes
1<x\le 2 | [1,2) | no
\mathbb{R} | (-\infty,\infty) | yes
# words
\text{east} | east | yes
\text{east} | \textbf{East} | yes
east | seat | no
\text{no} | No | yes
\text{no} | on | no
\text{(C)} | C | yes
C | (C) | yes
\text{(C)} | (D) | no
1 | \text{one} | no
\text{Monday} | \text{Sunday} | no
\text{odd} | \text{even} | no
# matrices
\begin{pmatrix}1\\2\end{pmatrix} | \begin{bmatrix} 1 \\ 2 \end{bmatrix} | yes
\begin{pmatrix}1\\2\end{pmatrix} | \begin{pmatrix}1&2\end{pmatrix} | no
\begin{pmatrix}1\\2\end{pmatrix} | \begin{pmatrix}2\\1\end{pmatrix} | no
\begin{pmatrix}\frac12&0\\0&1\end{pmatrix} | \begin{pmatrix}0.5&0\\0&1\end{pmatrix} | yes
\begin{pmatrix}\frac12&0\\0&1\end{pmatrix} | \begin{pmatrix}0.5&0\\1&0\end{pmatrix} | no
# formulas
\sqrt{2} | \frac{2}{\sqrt{2}} | yes
\sqrt{2} | \sqrt2 | yes
\sqrt{2} | √2 | yes
\sqrt{2} | 2 | no
\sqrt{2} | \sqrt{3} | no
\sqrt{2} | 1.414214 | yes
\sqrt{2} | 1.414 | no
3\sqrt{5} | \sqrt{45} | yes
\sqrt[3]{2} | 2^{1/3} | yes
\frac{\sqrt{3}}{2} | \sin(\frac{\pi}{3}) | yes
\frac{\pi}{2} | \pi/2 | yes
\frac{\pi}{2} | 90 | no
2\pi | \pi | no
2\pi | 2π | yes
(x+1)^2 | x^2+2x+1 | yes
(x+1)^2 | (x+1)(1+x) | yes
(x+1)^2 | x^2+1 | no
(x+1)^2 | (y+1)^2 | no
x^2-y^2 | (x-y)(x+y) | yes
x^2 | x^3 | no
|x| | \sqrt{x^2} | yes
|x| | x | no
\sin^2 x | 1-\cos^2 x | yes
e^{-50} | 2e^{-50} | no
\frac{x^2-1}{x-1} | x+1 | yes
\frac{n(n+1)}{2} | \frac{n^2+n}{2} | yes
\cos\frac{\pi}{7}\cos\frac{2\pi}{7}\cos\frac{3\pi}{7} | \frac{1}{8} | yes
\binom{10}{3} | 120 | yes
10! | 3628800 | yes
\log_2 8 | 3 | yes
\ln 2 | \log 2 | no
|xy| | xy | no
|xy| | |x||y| | yes
2^{100}+1 | 2^{100} | no
f(x+1)-f(x) | f(x+1)-f(x) | yes
f(x+1)-f(x) | -f(x)+f(x+1) | yes
f(x+1)-f(x) | f(x)-f(x+1) | no
1/\sqrt{2} | \sqrt{2}/2 | yes
\sqrt[3]{-8} | -2 | yes
\lfloor 2.5 \rfloor | 2 | yes
x^{12} | x^12 | yes
10^{12} | 10^12 | yes
f(x+1)-f(x) | f(x+1) | no
\sin 2x | 2\sin x\cos x | yes
\tan^{-1}(2) | \arctan 2 | yes
3+4i | 4i+3 | yes
3+4i | 3-4i | no
i^2 | -1 | yes
x_1 | x_{1} | yes
x_1 | x_2 | no
\infty | -\infty | no
1101_2 | 1101_{2} | yes
1101_2 | 1101 | yes
1101_2 | 1101_3 | no
1101_2 | 13 | no
# boxes
7 | first \boxed{3}, then \boxed{7} | yes
7 | first \boxed{7}, then \boxed{3} | no
7 | \boxed{7} as was to be shown, for 3 < 8. | yes
7 | \fbox{7} | yes
7 | \boxed {7} | yes
7 | \boxed 7 | yes
7 | \boxed{\boxed{7}} | yes
7 | \boxed{\text{The number is } 7} | no
\frac{1}{2} | $$\boxed{\frac{1}{2}}$$ | yes
\{1,2\} | \boxed{\{1,2\}} | yes
7 | \boxed{} | no
7 | \boxed{ | no
"""


def grade(gold: str, reply: str, **rules: bool) -> bool:
    found = final_answer(reply, **rules)
    return found.text is not None and answers_equal(gold, found.text)


def cases() -> list[tuple[str, str, bool]]:
    lines = [line for line in CASES.strip().split("\n") if not line.startswith("#")]
    rows = [line.rsplit(" | ", 1) for line in lines]
    pairs = [(*front.split(" | ", 1), verdict == "yes") for front, verdict in rows]
    return [(gold, reply if "box" in reply else f"\\boxed{{{reply}}}", right) for gold, reply, right in pairs]
