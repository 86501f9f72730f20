"""What counts as the right answer of a maths problem, case by case."""

from es_lightning.tasks.answers.math_answers import final_answer
from es_lightning.tasks.answers.math_equal import answers_equal

# One case a line: gold answer, reply, whether it counts. A reply without a box is put into one. "refused" is
# an answer that is right and does not count; docs/tasks.md says why.
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
0.1\overline{6} | \frac{1}{6} | refused
0.\overline{3} | 1/3 | refused
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
\cos\frac{\pi}{7}\cos\frac{2\pi}{7}\cos\frac{3\pi}{7} | \frac{1}{8} | refused
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

# More pairs of every kind that a policy could exploit, and of every way to write a right answer.
MORE = r"""
7x | 7 | no
7 | 7x | no
8pq | 8 | no
8pq | 8rs | no
3ab^2 | 3 | no
\frac{3}{4}gt^2 | \frac{3}{4} | no
\pi r^2 | \pi | no
2\pi r | 2\pi | no
5 k | 5 | no
5 | 5 k | no
15 y | 15 z | no
9 z^3 | 9 z^2 | no
5 \text{ seconds} | 5 t | no
7 h | 7 | no
4 s | 4 h | no
12 cm | 12 m | no
3 g | 3 | no
2 d | 2 | no
10:00 | 5:00 | no
5:04 | 5:4 | no
5:4 | 5:04 | no
5:04 | 05:04 | yes
5:00 | 5:0 | no
5:0 | 5:00 | no
7:05\text{ p.m.} | 7:5\text{ p.m.} | no
7:05\text{ p.m.} | \text{7:05 PM} | yes
1:05:30 | 1:5:30 | no
3:45 | 1:15 | no
6:20\text{ a.m.} | 3:10\text{ a.m.} | no
7:15 | 14:30 | no
2/0 | 3/0 | no
\frac{1}{0} | \frac{5}{0} | no
0/0 | 1/0 | no
8\text{ p.m.} | 8\text{ a.m.} | no
3\text{ feet} | 3\text{ inches} | no
\$2 | 2\text{ cents} | no
25\text{ cents} | \$25 | no
10\text{ cm}^2 | 10\text{ cm}^3 | no
12\text{ square units} | 12\text{ cubic units} | no
5\text{ kg} | 5\text{ g} | no
5\text{ km} | 5\text{ miles} | no
€5 | \$5 | no
90^\circ | 90\text{ radians} | no
\frac{1}{4} | 0.25\% | no
0.3 | 0.3\% | no
25\% | 0.25\% | no
\frac{3}{4} | \frac{3}{4}\% | no
0.5\% | \frac12 | no
q(0)e^{-t} | 0 | no
f(2) | f | no
f(2) | 2f | no
f(3) | f(2) | no
g(0)+1 | 1 | no
y(0) \cos t | y(0) \sin t | no
N(0)2^{-t} | 2^{-t} | no
\frac{dy}{dx}=2x | \frac{y}{x}=2x | no
\frac{dP}{dt}=rP | \frac{P}{t}=rP | no
\frac{dy}{dx} | \frac{y}{x} | no
x(0) | x | no
u(1) | u | no
2^{500} | 2^{500}+1 | no
3^{1000} | 3^{1000}-1 | no
10^{2020}-1 | 10^{2020} | no
\frac{3^{1009}-1}{2} | \frac{3^{1009}+1}{2} | no
2^{2020} | 2^{2019} | no
100! | 99! | no
100! | 100!+1 | no
2^{1000}+3^{500} | 2^{1000} | no
\frac{1}{3^{99}} | \frac{1}{3^{98}} | no
\lfloor n/3 \rfloor | \lfloor n/4 \rfloor | no
\lceil \frac{n}{2} \rceil | \lfloor \frac{n}{2} \rfloor | no
\lfloor \frac{n}{4} \rfloor | \frac{n}{4} | no
\lceil x \rceil | x | no
\lfloor \sqrt{n} \rfloor | \lceil \sqrt{n} \rceil | no
n-\lfloor n/10\rfloor | n-\lfloor n/11\rfloor | no
1, 234 | 1234 | no
3, 500 | 3500 | no
1,2,3 | 123 | no
12, 345, 678 | 12345678 | no
10, 200 | 10,200 | no
-221_3 | 221_3 | no
101_2 | 101_3 | no
10 | 10_3 | no
5 | 101_2 | no
x<2\text{ or }x>5 | x<2\text{ and }x>5 | no
x>1\text{ and }x<4 | x>1\text{ or }x<4 | no
\text{Bob} > \text{Amy} | \text{Bob} < \text{Amy} | no
A<B | A>B | no
\text{Tom} = \text{Ann} | \text{Tom} > \text{Ann} | no
p \text{ and } q | p \text{ or } q | no
x=2 | 2x=4 | no
3 | x+2=5 | no
3 | x^2=3 | no
7 | 2x=7 | no
x \in (1,2) | \{1,2\} | no
[1,2] | \{1,2\} | no
(1,2] | [1,2) | no
(a,b) | (b,a) | no
(a,b) | [a,b] | no
x=1,y=2 | x=2,y=1 | no
|ac| | ac | no
\begin{vmatrix}1&2\\3&4\end{vmatrix} | \begin{pmatrix}1&2\\3&4\end{pmatrix} | no
\begin{pmatrix}1&2\end{pmatrix} | \begin{pmatrix}2&1\end{pmatrix} | no
A | a | no
X^2 | x^2 | no
mM | m^2 | no
I | i | no
2I | 2i | no
\omega_1 | \omega_2 | no
x' | x | no
\vec{v} | v | no
\overline{z} | z | no
\hat{y} | y | no
e^{-40} | 3e^{-40} | no
10^{-30} | 2\cdot 10^{-30} | no
e^{-x} | e^{x} | no
\sin x | \sin y | no
\ln 2 | \log 2 | no
\log_2 x | \log_3 x | no
\sqrt[3]{x} | \sqrt{x} | no
x^2=4 | x=2 | no
x=x+1 | y=y+2 | no
x+y\le 2 | x+y\ge 2 | no
x+y< 2 | x+y\le 2 | no
2x+y=1 | 2x+y=0 | no
\infty | -\infty | no
[0,\infty) | [0,-\infty) | no
(0,\infty) | (0,10^{99}) | no
\pm 3 | 3 | no
1\pm i | 1+i | no
\frac{\pi}{2}+k\pi | \frac{\pi}{2}+2k\pi | no
\cos(t)=0 \text{ when } t=\frac{\pi}{2}+\pi k | \cos(t)=0 \text{ when } t=\frac{\pi}{3}+\pi k | no
\text{June 20} | \text{June 21} | no
\text{yes} | \text{no} | no
\text{3 red, 2 blue} | \text{2 red, 3 blue} | no
1.5 | 15 | no
1.5\times 10^{8} | 1.5\times 10^{7} | no
6.02 \times 10^{23} | 6.03\times 10^{23} | no
5 | \text{5 is not the answer} | no
5 | 5! | no
5 | -5 | no
5 | 5^2 | no
5 | 5i | no
5 | |5-10|+1 | no
5 | 55 | no
2 | \sqrt{2} | no
4 | 4\sqrt{3} | no
12 | 1 2 | no
12 | 12 or 13 | no
12 | 12, 13 | no
12 | \{12, 13\} | no
12 | 12=13 | no
0 | 0x | no
0 | x-x | no
x | \text{x marks the spot} | no
3:4 | 4:3 | no
1:2:3 | 1:3:2 | no
5\frac{1}{2} | \frac{5}{2} | no
\frac{1}{2} | 1\frac{1}{2} | no
5 | 5\text{ hundred} | no
5 | 5 thousand | no
5 | 5 dozen | no
2\pi | 2 | no
2\pi | 6.28 | no
90 | \frac{\pi}{2} | no
45 | 45\%x | no
3y | 3 y | yes
5x^3 | 5 x^3 | yes
y=3x | y = 3 x | yes
8pq | 8p q | yes
6ab | 2a\cdot 3b | yes
\frac{3}{4}gt^2 | \frac{3}{4} g t^2 | yes
5-2g(x) | 5 - 2 g(x) | yes
2 n | 2n | yes
g(x)=3 x | g(x)=3x | yes
f(x) = 2x+1 | 2x+1 | yes
3^{2020} | 3\cdot 3^{2019} | yes
2^{100} | 4^{50} | yes
\frac{1}{100!} | 1/100! | yes
10! | 3,628,800 | yes
\frac{100!}{99!} | 100 | yes
\lfloor n/2\rfloor | \lceil (n-1)/2\rceil | yes
\lceil \frac{n}{3}\rceil | \lfloor \frac{n+2}{3}\rfloor | yes
\lfloor n/2 \rfloor +1 | 1+\lfloor \frac{n}{2}\rfloor | yes
60, 120 | 120, 60 | yes
7, 343 | \{7, 343\} | yes
30^\circ, 150^\circ | 30, 150 | yes
(2,5,101, 103) | (2, 5, 101, 103) | yes
100, 200, 300 | 300, 200, 100 | yes
-1011_2 | -1011_{2} | yes
0.101_2 | 0.101_{2} | yes
2A_{16} | 2A_{16} | yes
\text{25} | 25 | yes
7 | \textbf{7} | yes
7 | \mathbf{7} | yes
7 | \mathrm{7} | yes
7 | \boldsymbol{7} | yes
7 | \text{ 7 } | yes
\frac{3}{4} | \mathbf{\frac{3}{4}} | yes
\frac{3}{4} | \boldsymbol{\frac{3}{4}} | yes
2500 | \frac{\mathrm{5,000}}{2} | yes
1000 | \mathrm{1,000} | yes
-3 | \mathbf{-3} | yes
\text{2:15 p.m.} | 2:15 \text{ p.m.} | yes
\text{11:59 AM} | 11:59 \text{ a.m.} | yes
\text{11:59 AM} | 11:59 AM | yes
\text{June 20} | June 20 | yes
\text{May 5} | \text{May } 5 | yes
7\text{ p.m.} | 7:00 \text{ PM} | yes
2400 | 2,400 \text{ m}^2 | yes
12{,}500 | 12,500\text{ dollars} | yes
12000 | 12,000 cm^3 | yes
1,500 | 1,500\text{ km} | yes
3600 | \$3,600 | yes
7 | 7\text{s} | yes
\frac{5}{3} | \frac{5}{3}\,\mathrm{s} | yes
2\sqrt{3} | 2\sqrt{3}\text{ m} | yes
15 | 15\,\mathrm{N} | yes
25 | 25^\circ\text{F} | yes
9.8 | 9.8\,\mathrm{m/s^2} | yes
9.8 | 9.8\,\text{m/s}^2 | yes
9.8 | 9.8\,\mathrm{m}/\mathrm{s}^2 | yes
9.8 | 9.8\,\mathrm{m}\,\mathrm{s}^{-2} | yes
300 | 300\text{ K} | yes
\sqrt{2/n} | \frac{\sqrt{2}}{\sqrt{n}} | yes
\sqrt{xy} | \sqrt{x}\sqrt{y} | yes
3a\sqrt{2a} | \sqrt{18a^3} | yes
\sqrt[4]{x} | x^{1/4} | yes
\ln(ab) | \ln a+\ln b | yes
\ln x^2 | 2\ln x | yes
\log_2 (ab) | \log_2 a+\log_2 b | yes
\frac{1}{\sqrt{x}} | x^{-1/2} | yes
\sqrt{a^2b} | a\sqrt{b} | yes
\frac{\alpha_{1}}{\beta^2} | \frac{\alpha_1}{\beta^{2}} | yes
\mu_{\text{max}} | \mu_{\mathrm{max}} | yes
2\rho_{0} | 2\rho_0 | yes
y^{\prime\prime}+y=0 | y''+y=0 | yes
y^{\prime}=2y | y'=2y | yes
T_{\mathrm{eff}} | T_\text{eff} | yes
\theta_i | \theta_{i} | yes
\Delta x | \Delta x | yes
\omega_0^2 | \omega_{0}^{2} | yes
k_B T | k_{B}T | yes
\overline{AB} | AB | yes
\overline{XYZ} | XYZ | yes
\angle ABC | \angle ABC | yes
x>5 | x \gt 5 | yes
x\ne 0 | x \neq 0 | yes
x\ge 3 | x >= 3 | yes
x\geqslant 3 | x\geq 3 | yes
2<y<7 | 7>y>2 | yes
[0,1] | 0\le f(x)\le 1 | yes
0<x\leq 5 | (0,5] | yes
a<x<b | (a,b) | yes
x\neq 2 | x != 2 | yes
(1,\infty) | x > 1 | yes
\begin{pmatrix}5 & 6\\7 & 8\end{pmatrix} | \left[\begin{array}{cc}5 & 6\\7 & 8\end{array}\right] | yes
\begin{pmatrix}1\\0\end{pmatrix} | \left(\begin{array}{c}1\\0\end{array}\right) | yes
\begin{pmatrix}1\\0\end{pmatrix} | \begin{bmatrix}1\\0\end{bmatrix} | yes
\begin{bmatrix}1&2\end{bmatrix} | \begin{matrix}1&2\end{matrix} | yes
3,4 | {3,4} | yes
3,4 | \lbrace 3,4\rbrace | yes
\emptyset | \varnothing | yes
\{\} | \emptyset | yes
\pm 5 | \{-5, 5\} | yes
\pm 5 | 5, -5 | yes
\left[1,2\right) | [1,2) | yes
\langle 1,2,3\rangle | (1,2,3) | yes
(2) | 2 | yes
\frac{\sqrt{2}}{2} | \frac{\sqrt{2}}{2} \approx 0.707 | yes
\frac{1}{3} | \frac{1}{3} \approx 0.333 | yes
\pi | \pi \approx 3.14 | yes
56 | 7 \times 8 = 56 | yes
56 | 56 \\ | yes
56 | 56. | yes
56 | = 56 | yes
56 | \approx 56 | yes
12 | 3+4+5=12 | yes
100 | p+q=100 | yes
73 | m + n = 73 | yes
33 | a+b = 16+17 = 33 | yes
28 | N = 28 | yes
28 | \text{Total} = 28 | yes
28 | AB = 28 | yes
\frac{2}{3} | \\frac{2}{3} | yes
\frac{2}{3} | \\dfrac{2}{3} | yes
2\sqrt{3} | 2\\sqrt{3} | yes
5 | 5\% | yes
x=3 | x = 3.0 | yes
y = 2x + 3 | y=3+2x | yes
x^2+y^2=25 | y^2+x^2=25 | yes
\frac{x^2}{4}+\frac{y^2}{9}=1 | 9x^2+4y^2=36 | yes
(x-1)^2 | x^2-2x+1 | yes
x(x+1) | x^2+x | yes
\frac{1}{x}-\frac{1}{x+1} | \frac{1}{x(x+1)} | yes
2\cos^2 x-1 | \cos 2x | yes
\binom{5}{2} | 10 | yes
\binom{n}{2} | \frac{n(n-1)}{2} | yes
n! | n\cdot(n-1)! | yes
\tan^{-1} x | \arctan x | yes
\sqrt{-4} | 2i | yes
(1+i)^2 | 2i | yes
e^{i\pi/2} | i | yes
|x-1| | |1-x| | yes
|a||b| | |ab| | yes
x^{1/2} | \sqrt{x} | yes
2^{n+1} | 2\cdot 2^n | yes
\frac{a}{b+c} | a/(b+c) | yes
\frac{a}{b+c} | \frac{a}{c+b} | yes
0.5 | \frac{1}{2} | yes
1/3 | 0.\overline{3} | refused
3.14159265 | \pi | yes
\text{(B)} | B | yes
\text{B} | (B) | yes
B | \textbf{(B)} | yes
\text{Tuesday} | Tuesday | yes
\text{even} | Even | yes
1 \text{ hour } 30 \text{ minutes} | 1 \text{ hour } 30 \text{ minutes} | yes
3 + 2\sqrt{2} | 2\sqrt{2}+3 | yes
\frac{-1+\sqrt{5}}{2} | \frac{\sqrt5-1}{2} | yes
\frac{\sqrt{6}+\sqrt{2}}{4} | \sin 75^\circ | yes
\sin 30^\circ | \frac12 | yes
3 : 4 | 3:4 | yes
5\text{ apples} | 5 | yes
2\frac{1}{3} | \frac73 | yes
x \in [1,2] | [1,2] | yes
[-1,1] | x\in[-1,1] | yes
\mathbb{R} | (-\infty, \infty) | yes
1.5 \times 10^{8} | 150000000 | yes
1.5 \times 10^{8} | 1.5e8 | yes
4\pi \text{ cm}^2 | 4\pi | yes
4\pi | 4\pi \text{ square inches} | yes
2x^2-3x+1 | 2 x^{2} - 3 x + 1 | yes
\frac{3}{4} | 0.75 | yes
\frac{3}{4} | 75\% | yes
12 | \mathbf{12} | yes
12 | {12} | yes
12 | \displaystyle 12 | yes
12 | 12\;\text{units} | yes
12 | 12 \text{ ways} | yes
12 | \quad 12 | yes
1+\sqrt{2}, 1-\sqrt{2} | 1\pm\sqrt{2} | yes
x = 1 \text{ or } x=2 | 1, 2 | yes
-2, 1 | x=-2, 1 | yes
-2, 1 | x = 1, x = -2 | yes
(3,4) | (x,y)=(3,4) | yes
3mn | 3 | no
14ab | 14a | no
xyz | xy | no
5x^2y | 5x^2 | no
2\sqrt{3}x | 2\sqrt{3} | no
7 r | 7 | no
6 p | 6 q | no
4 \text{ liters} | 4 x | no
8 w^2 | 8 w^4 | no
11 | 11 uv | no
100 m | 100 | no
3 s | 3 | no
20 mg | 20 | no
2 kg | 2 g | no
16 \text{ft} | 16 \text{in} | no
3 \text{ dozen} | 3 | no
1:30 | 2:60 | no
12:15 | 4:05 | no
8:40 | 2:10 | no
5:45\text{ PM} | 5:45\text{ AM} | no
5/0 | 6/0 | no
\frac{x}{0} | \frac{2x}{0} | no
7\text{ a.m.} | 7\text{ p.m.} | no
\$7 | 7\text{ cents} | no
12\text{ hours} | 12\text{ minutes} | no
3\text{ cm} | 3\text{ mm} | no
9\text{ square feet} | 9\text{ square inches} | no
16\text{ units}^3 | 16\text{ units}^2 | no
16\text{ in}^2 | 16\text{ in} | no
60\text{ mph} | 60\text{ km/h} | no
60\text{ m/s} | 60\text{ m/s}^2 | no
1 | 1\% | no
\frac{1}{5} | 0.2\% | no
0.05 | 0.05\% | no
5\% | 0.05\% | no
P(0)e^{kt} | 0 | no
P(0)e^{kt} | P(0)e^{-kt} | no
h(3) | h | no
h(3) | 3h | no
v(t)=gt | v=g | no
\frac{dv}{dt}=g | \frac{v}{t}=g | no
\frac{d^2x}{dt^2} | \frac{x}{t^2} | no
\frac{\partial u}{\partial t} | \frac{u}{t} | no
f'(2) | f(2) | no
f^{-1}(x) | f(x) | no
f(g(x)) | g(f(x)) | no
2^{2019} | 2^{2019}+2 | no
2^{1000}-1 | 2^{1000} | no
7^{777} | 7^{778} | no
\frac{2^{2020}-1}{3} | \frac{2^{2020}+1}{3} | no
50! | 50!-1 | no
\frac{1}{2^{100}} | \frac{1}{2^{101}} | no
1+10^{-40} | 1 | no
10^{100}+1 | 10^{100} | no
\lfloor \frac{n+1}{2} \rfloor | \lfloor \frac{n}{2} \rfloor | no
\lceil n/2\rceil | n/2 | no
\lfloor x \rfloor | x | no
\lfloor n/7\rfloor+1 | \lceil n/7\rceil | no
\left\lfloor \frac{n^2}{4} \right\rfloor | \frac{n^2}{4} | no
4, 500 | 4500 | no
10, 100, 1000 | 101001000 | no
1, 000 | 1 | no
6, 28, 496 | 628496 | no
77_8 | 77_9 | no
1A_{16} | 1A_{12} | no
21 | 21_5 | no
0.1_2 | 0.1_3 | no
101_2 | -101_2 | no
x<0\text{ or }x>1 | x<0\text{ and }x>1 | no
x\le -1 \text{ or } x \ge 1 | x\le -1 \text{ and } x\ge 1 | no
\text{Alice} < \text{Bob} < \text{Carl} | \text{Carl} < \text{Bob} < \text{Alice} | no
P \land Q | P \lor Q | no
\text{true} | \text{false} | no
\text{A and B} | \text{A or B} | no
a>b | b>a | no
a=b | a=c | no
\frac{x}{y} | \frac{y}{x} | no
x=\frac{1}{2} | 2x=1 | no
4 | x-4=0 | no
y=x | x=y^2 | no
(1,2),(3,4) | (1,2),(4,3) | no
(1,2,3) | (1,2,3,4) | no
[1,2)\cup(3,4] | [1,2]\cup(3,4] | no
(-1,1) | [-1,1] | no
\{1,2,3\} | \{1,2\} | no
\{x: x>1\} | \{x: x<1\} | no
\begin{pmatrix}1\\2\end{pmatrix} | (2,1) | no
\begin{pmatrix}1&0\\0&1\end{pmatrix} | \begin{pmatrix}1&0\\0&-1\end{pmatrix} | no
\begin{vmatrix}a&b\\c&d\end{vmatrix} | \begin{pmatrix}a&b\\c&d\end{pmatrix} | no
|a-b| | a-b | no
|x|+|y| | |x+y| | no
\sqrt{x^2+y^2} | x+y | no
(a+b)^2 | a^2+b^2 | no
\sin(x+y) | \sin x+\sin y | no
\log(ab) | \log a\log b | no
e^{x+y} | e^x+e^y | no
\frac{1}{a+b} | \frac{1}{a}+\frac{1}{b} | no
\sqrt{a+b} | \sqrt{a}+\sqrt{b} | no
a^{bc} | a^b a^c | no
x^{-1} | -x | no
-x^2 | (-x)^2 | no
2^{-3} | -8 | no
\tan^{-1} x | \frac{1}{\tan x} | no
\sin^{-1}(1/2) | \frac{1}{\sin(1/2)} | no
\pi | 3.14 | no
\pi | \frac{22}{7} | no
e | 2.718 | no
\sqrt{2} | 1.41 | no
\frac{2}{3} | 0.67 | no
\frac{2}{3} | 0.6667 | no
0.1 | 0.10001 | no
100 | 100.01 | no
1,000 | 1,00 | no
12.5 | 12,5 | no
1000000 | 1,000,00 | no
3.0\times10^8 | 3.0\times10^{-8} | no
\text{three} | \text{two} | no
\text{Sunday} | \text{Saturday} | no
\text{isosceles} | \text{equilateral} | no
\text{(A)} | \text{(B)} | no
A | B | no
\text{all real numbers except } 2 | \text{all real numbers except } 3 | no
\text{15 apples, 3 pears} | \text{3 apples, 15 pears} | no
x_1 | x_{12} | no
a_{n} | a_{n+1} | no
a_n=2^n | a_n=2^{n+1} | no
\alpha+\beta | \alpha-\beta | no
\Omega | \omega | no
\Delta | \delta | no
\Gamma | \gamma | no
\vec{a}\cdot\vec{b} | ab | no
\bar{x} | x | no
N | n | no
K=3k | k=3k | no
3 | 3' | no
\infty | 10^{99} | no
\infty | x | no
(-\infty, 5) | (5, \infty) | no
5 | 5\text{ or }6 | no
5 | 5, 6 | no
5 | \pm 5 | no
5 | \{5,6\} | no
5 | 4 < x < 6 | no
5 | [5,5] | no
5 | x | no
0 | \emptyset | no
\emptyset | 0 | no
1 | \text{true} | no
42 | 6\cdot 7 = 43 | no
42 | 42 = 43 | no
42 | 43 \approx 42 | no
42 | 42 \ne 43 | no
10 | 10_{10} | no
2 | \binom{2}{2} | no
2 | 2\frac{1}{2} | no
\frac{1}{2} | \frac{1}{2}\frac{1}{2} | no
-1 | i | no
i | -i | no
2+3i | 3+2i | no
\text{No solution} | \text{one solution} | no
\cos(t)=0 \text{ for } t=\frac{\pi}{2} | \cos(t)=1 \text{ for } t=\frac{\pi}{2} | no
\sin(t)+a | \sin(a)+t | no
\sin(x)+a | \sin(x)+x | no
\ln(u)-v | \ln(v)-u | no
\cos(x)+b | \cos(y)+b | no
\log_{a}(b)+c | \log_{b}(a)+c | no
\sqrt{x}+\sin(y) | \sqrt{y}+\sin(x) | no
4m | 4 m | yes
2b | 2 b | yes
3s^2 | 3 s^2 | yes
10xy | 10x \cdot y | yes
7x^2y | 7 x^2 y | yes
-2x+1 | 1 - 2 x | yes
\frac{1}{3}bh | \frac{1}{3} b h | yes
\frac{2x}{3} | \frac{2}{3} x | yes
2f(x)+1 | 1+2 f(x) | yes
f(x)=x+1 | f(x) = 1+x | yes
n^2-n | n (n-1) | yes
6^{100} | 2^{100}\cdot 3^{100} | yes
2^{1000} | 4^{500} | yes
\frac{1}{50!} | \frac{1}{50!} | yes
5! | 120 | yes
\frac{10!}{8!} | 90 | yes
20! | 20\cdot 19! | yes
\lfloor \frac{n}{2}\rfloor | \left\lfloor \frac{n}{2}\right\rfloor | yes
\lceil \frac{n-1}{2} \rceil | \lfloor \frac{n}{2} \rfloor | yes
2\lfloor n/2\rfloor+1 | 1+2\left\lfloor\frac n2\right\rfloor | yes
90, 180 | 180, 90 | yes
1, 2, 3 | 3, 2, 1 | yes
120^\circ, 60^\circ | 60, 120 | yes
\{100, 200\} | 100, 200 | yes
(1,2),(3,4) | (3,4),(1,2) | yes
(0,0), (1,100) | (1, 100), (0, 0) | yes
1,000 | 1000 | yes
2112_3 | 2112_{3} | yes
-12_5 | -12_{5} | yes
1010_{\text{two}} | 1010_{\text{two}} | yes
\text{7} | 7 | yes
\text{1,200} | 1200 | yes
100 | \mathrm{100} | yes
-\frac{1}{2} | \mathbf{-\frac{1}{2}} | yes
8 | \mathit{8} | yes
8 | \textit{8} | yes
8 | \bm{8} | yes
8 | \mathbf{\text{8}} | yes
5.5 | \mathrm{5.5} | yes
x+1 | \mathbf{x+1} | yes
\text{5 cm} | 5\text{ cm} | yes
\text{8:00 a.m.} | 8:00 \text{ a.m.} | yes
\text{8:00 a.m.} | 8\text{ AM} | yes
\text{10:30} | 10:30 | yes
\text{July 4} | July 4 | yes
\text{Friday, March 3} | Friday, March 3 | yes
8000 | 8,000 \text{ cm}^3 | yes
9{,}000 | 9,000\text{ m} | yes
1200 | 1,200 dollars | yes
45000 | \$45,000 | yes
6,000 | 6000\text{ sq ft} | yes
25000 | 25,000 miles | yes
30 | 30\text{h} | yes
\frac{7}{2} | \frac{7}{2}\text{ m} | yes
5\sqrt{3} | 5\sqrt{3}\,\mathrm{cm} | yes
15 | 15\mathrm{L} | yes
20 | 20^\circ\text{ C} | yes
20 | 20^{\circ}\mathrm{C} | yes
0.5 | 0.5\,\mathrm{A} | yes
100 | 100\,\mathrm{J} | yes
\sqrt{6/n} | \sqrt{6}/\sqrt{n} | yes
\sqrt{pq} | \sqrt{q}\sqrt{p} | yes
\sqrt{8x^3} | 2x\sqrt{2x} | yes
x\sqrt{x} | x^{3/2} | yes
\sqrt[5]{y^2} | y^{2/5} | yes
\log\frac{x}{y} | \log x-\log y | yes
\ln\sqrt{x} | \frac{1}{2}\ln x | yes
\log_3 9x | 2+\log_3 x | yes
\frac{\sqrt{a}}{\sqrt{b}} | \sqrt{\frac{a}{b}} | yes
\sigma_{x}^{2} | \sigma_x^2 | yes
\lambda_{1}+\lambda_{2} | \lambda_2+\lambda_1 | yes
\frac{v_{0}^{2}}{2 g} | \frac{v_0^2}{2g} | yes
E_{\text{max}} | E_{\mathrm{max}} | yes
\phi_{0} e^{-\mu x} | \phi_0 e^{-\mu x} | yes
y^{\prime} | y' | yes
y^{\prime \prime}+y=0 | y''+y=0 | yes
x_{\alpha} | x_\alpha | yes
\epsilon_0 | \epsilon_{0} | yes
\overline{PQ} | PQ | yes
\overline{ABC} | ABC | yes
y<5 | y \lt 5 | yes
x>=2 | x\ge 2 | yes
x \neq 1 | x\ne 1 | yes
x\ne 1 | x \not= 1 | yes
5>a | a<5 | yes
-1\le x\le 1 | 1\ge x\ge -1 | yes
[2,5) | 2\le t<5 | yes
(-\infty,4] | x\leq 4 | yes
x\in(0,1) | 0<x<1 | yes
\left(\begin{array}{c}1\\2\\3\end{array}\right) | \begin{pmatrix}1\\2\\3\end{pmatrix} | yes
\begin{pmatrix}-1 & 0\\0 & 1\end{pmatrix} | \begin{bmatrix}-1 & 0\\ 0 & 1\end{bmatrix} | yes
\left[\begin{matrix}1&2\end{matrix}\right] | \begin{pmatrix}1&2\end{pmatrix} | yes
\begin{pmatrix} 1/2 \\ 3 \end{pmatrix} | \begin{pmatrix} \frac{1}{2} \\ 3 \end{pmatrix} | yes
5,6 | {5, 6} | yes
5,6 | (5),(6) | yes
\{5\} | 5 | yes
\{a,b\} | \{b,a\} | yes
\emptyset | \{ \} | yes
\pm 2 | {-2,2} | yes
\pm\sqrt{3} | -\sqrt{3}, \sqrt{3} | yes
x=\pm 2 | x=2 \text{ or } x=-2 | yes
\frac{\sqrt{5}}{5} | \frac{\sqrt{5}}{5} \approx 0.447 | yes
\frac{2}{7} | \frac{2}{7} \approx 0.2857 | yes
\ln 2 | \ln 2 \approx 0.693 | yes
30 | 5 \times 6 = 30 | yes
30 | 10+20=30 | yes
30 | 30.0 | yes
30 | 30, | yes
155 | m+n=155 | yes
155 | m + n = 150 + 5 = 155 | yes
77 | a+b+c=77 | yes
77 | p + q + r = 77 | yes
12 | a\cdot b = 12 | yes
12 | ab=12 | yes
12 | n(A) = 12 | yes
12 | f(3) = 12 | yes
12 | \angle A = 12 | yes
12 | S_5 = 12 | yes
12 | \text{Answer: } 12 | yes
\frac{3}{5} | \\frac{3}{5} | yes
\frac{3}{5} | \\tfrac{3}{5} | yes
2\pi | 2\\pi | yes
\sqrt{7} | \\sqrt{7} | yes
x=2,y=3 | y=3,x=2 | yes
(2,3) | (x, y) = (2, 3) | yes
(2,3) | \left(2, 3\right) | yes
y=\frac{1}{2}x+3 | x-2y+6=0 | yes
x^2+y^2-4x=0 | x^2-4x+y^2=0 | yes
2x+3y=6 | y=-\frac{2}{3}x+2 | yes
y=x^2 | y-x^2=0 | yes
3x+2 | 2+3x | yes
\frac{x^2-4}{x-2} | x+2 | yes
1+\tan^2 x | \frac{1}{\cos^2 x} | yes
\frac{n(n+1)(2n+1)}{6} | \frac{2n^3+3n^2+n}{6} | yes
2\sin x\cos x | \sin 2x | yes
\frac{1}{1-x} | \frac{-1}{x-1} | yes
e^{2\ln x} | x^2 | yes
\sqrt{12} | 2\sqrt{3} | yes
\frac{1}{\sqrt{2}} | \frac{\sqrt{2}}{2} | yes
\frac{3}{\sqrt{3}} | \sqrt{3} | yes
\sqrt{3+2\sqrt{2}} | 1+\sqrt{2} | yes
\sqrt[3]{27} | 3 | yes
\log_{10} 100 | 2 | yes
\binom{6}{2} | 15 | yes
\binom{n}{3} | \frac{n(n-1)(n-2)}{6} | yes
\cos 60^\circ | \frac{1}{2} | yes
\frac{5\pi}{6} | \frac{5}{6}\pi | yes
5\pi/6 | \frac{5\pi}{6} | yes
3-i | -i+3 | yes
\frac{1+i}{2} | \frac{1}{2}+\frac{i}{2} | yes
-1+2i | 2i-1 | yes
0.\overline{12} | \frac{4}{33} | refused
1.2\overline{3} | \frac{37}{30} | refused
12\% | 0.12 | yes
12\% | 12 | yes
3\frac{3}{4} | 3.75 | yes
3\frac{3}{4} | \frac{15}{4} | yes
-1\frac{1}{2} | -1.5 | yes
\text{(D)} | D | yes
D | \text{D} | yes
\text{Yes} | yes | yes
\text{parabola} | Parabola | yes
\text{no solution} | No solution | yes
\text{none} | \text{None} | yes
1:2:3 | 1 : 2 : 3 | yes
3:2 | 3 : 2 | yes
7 \text{ hours and } 30 \text{ minutes} | 7 \text{ hours and } 30 \text{ minutes} | yes
\frac{a}{b} | \dfrac{a}{b} | yes
\frac{a}{b} | a/b | yes
\frac{a}{b} | {a \over b} | yes
a \cdot b | ab | yes
ab | a*b | yes
2^x | 2^{x} | yes
x^{10} | x^10 | yes
-(x-1) | 1-x | yes
(x-1)(x+1) | (x+1)(x-1) | yes
x(x-1)(x+1) | x^3-x | yes
\frac{1}{2} | 1/2 | yes
\frac12 | \frac{1}{2}. | yes
8 | 8\,\text{units} | yes
8 | $8$ | yes
8 | \(8\) | yes
x \equiv 3 \pmod{7} | x\equiv 3 \pmod 7 | yes
3+\sqrt{5},3-\sqrt{5} | 3\pm\sqrt{5} | yes
\frac{1\pm\sqrt{5}}{2} | \frac{1+\sqrt{5}}{2}, \frac{1-\sqrt{5}}{2} | yes
\left(\frac{1}{2},\frac{3}{4}\right) | (0.5, 0.75) | yes
\left(-\infty,\frac{1}{2}\right] | (-\infty, 0.5] | yes
\sin(t)+a | a+\sin(t) | yes
\ln(u)-v | -v+\ln u | yes
\text{5 cm} | 5 | yes
\text{3 hours} | 3 | yes
12 | \text{The answer is } 12 | yes
12 | {24 \over 2} | yes
4 abcd | 4 | no
12 xyzw | 12 | no
5 | 5 wxyz | no
3\text{ n} | 3 | no
2\text{x} | 2 | no
3 | 3\text{x} | no
6 \mathrm{xy} | 6 | no
7 | 3+4\mathrm{i} | no
3+4i | 3+4\mathrm{i} | yes
10:30 | 10:30\% | no
8\text{ p.m.} | 8 | no
8 | 8\text{ p.m.} | no
45\text{ units}^2 | 45\text{ units} | no
8\% | 8\text{ dollars} | no
8\% | \$8 | no
8\text{ cm} | 8\% | no
5 | 5 factorial | no
1-2^{-100} | 1-2^{-101} | no
2-\frac{1}{2^{99}} | 2 | no
\lfloor \frac{n}{100}\rfloor | \lfloor \frac{n}{101}\rfloor | no
\lfloor n/3000\rfloor | \lfloor n/4000\rfloor | no
p \implies q | q \implies p | no
A \subset B | B \subset A | no
a \mid b | b \mid a | no
f \circ g | g \circ f | no
x \equiv 3 \pmod 7 | x \equiv 7 \pmod 3 | no
1+2+\cdots+n | 2+1+\cdots+n | no
7=11a+c | 11a+c | no
\emptyset | \{\emptyset\} | no
3s^2 | 3*s**2 | yes
2x(15x^2-4x+10) | 2*x*(15*x**2 - 4*x + 10) | yes
28\% | 28 pct | yes
\lfloor \frac{n-1}{2} \rfloor | \lceil\frac{n}{2}\rceil-1 | yes
\{1\pm\sqrt{5},-2\} | -2, 1+\sqrt5, 1-\sqrt5 | yes
1, 2, \ldots, 10 | 1,2,\dots,10 | yes
1101_2 | (1101)_2 | yes
(1101)_2 | 1101_2 | yes
5 | x \approx 5 | yes
17 | \mathsf{17} | yes
17 | \texttt{17} | yes
17 | {\bf 17} | yes
17 | \underline{17} | yes
17 | \Large{17} | yes
\frac{1}{2} | \mathrm{\frac{1}{2}} | yes
50 | \text{50\%} | yes
10\text{ a.m.} | \text{10 a.m.} | yes
14916 | 14 {, }916 | yes
12 | 12\,\text{N}\cdot\text{m} | yes
12 | 12\,\mathrm{N\cdot m} | yes
\lg 2 | \log_{10} 2 | yes
\theta_{\max} | \theta_{max} | yes
\overline{CD} | \text{CD} | yes
x<1 | -x>-1 | yes
x\le 1 | -x\ge -1 | yes
\begin{pmatrix}1\\2\end{pmatrix} | \mathbf{v}=\begin{pmatrix}1\\2\end{pmatrix} | yes
\pm 4 | \mp 4 | yes
0 | 1-1 | yes
0 | \sin\pi | yes
73 | m-n=73 | yes
"""


def grade(gold: str, reply: str, **rules: bool) -> bool:
    found = final_answer(reply, **rules)
    return found.text is not None and answers_equal(gold, found.text)


def cases(table: str = CASES) -> list[tuple[str, str, bool]]:
    lines = [line for line in table.strip().split("\n") if not line.startswith("#")]
    rows = [line.rsplit(" | ", 1) for line in lines]
    pairs = [(*front.split(" | ", 1), verdict == "yes") for front, verdict in rows]
    return [(gold, reply if "box" in reply else f"\\boxed{{{reply}}}", right) for gold, reply, right in pairs]
