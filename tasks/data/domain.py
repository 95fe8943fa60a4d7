"""Which domain a text is of, measured from the text itself: code, mathematics, or knowledge, which is all the rest.

Two shares of its characters decide: those on lines of code (fenced blocks, prompts, statements of the common
languages) and those in formulas (TeX, mathematical signs, equations) or in words that mathematicians use, English or
Chinese. Shares, not counts, so that a manual with an example stays knowledge; no model, so that it is the same for
every corpus.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from pydantic import Field

from tasks.params import Section

DOMAINS = ("knowledge", "mathematics", "code")

FENCE = re.compile(r"\s*(?:```|~~~)\s*(\S*)")
FORMULA_FENCES = ("math", "latex", "tex", "katex")
STATEMENT = re.compile(r"""\s*(?:
    (?:>>>|\.\.\.|\$|\#!|//|/\*|--)(?:\s|$)                                            # prompts, comments
  | @[\w.]+(?:\(.*)?$                                                                  # decorators, annotations
  | (?:[-+\w.\[\]"'*, ]{1,60}?)\s?(?:[-+*/|&:]?=)(?![=~])\s?[\w("'\[{&*$-].*[\w)\]}"';,({\[\\]$  # assignment
  | (?:import\s+[\w.,{}* ]+(?:\s+as\s+\w+|\s+from\s.*)?|from\s+[\w.]+\s+import\b.*);?$
  | (?:(?:async\s+)?def|class|fn|func|function|struct|interface|enum|impl|namespace|trait)\s+\w+.*[:({]$
  | (?:public|private|protected|static|const|let|var|pub|extern|typedef|template|\#include|\#define)\b.*[;{(>)=]$
  | (?:if|elif|else|for|while|with|try|except|finally|switch|case|catch|match)\b.{0,200}[:{]$(?<![a-z]{3}\s[a-z]{3}:)
  | (?:return|raise|yield|await|throw|print|assert|pass|break|continue)(?:\s*[\w("'\[{-].*[\w)\]}"';]|;)?$
  | (?:SELECT|INSERT\s+INTO|UPDATE|DELETE\s+FROM|CREATE|ALTER|DROP|FROM|WHERE|(?:LEFT\s|INNER\s|OUTER\s)?JOIN
      |ORDER\s+BY|GROUP\s+BY|VALUES|BEGIN|COMMIT)\b.*
  | [\w.\[\]]*\w\(.*[)\],({]\s*;?$                                                     # a call
  | [)\]}]+[;,:)]*(?:\s*\{)?$                                                           # closing brackets
  | </?[a-zA-Z%][^<>]*>.*$ | [^<>]*</[a-zA-Z%]\w*>$                                    # markup
  | "[\w-]+"\s*:\s*.+[,{\[\]}"\d]$ | .*[;{]$                                           # JSON; C-like ends
)""", re.VERBOSE)
COMMENT = re.compile(r"\s{2,}(?:#|//|--)\s?\S")  # indented, so no heading of Markdown
SENTENCE = re.compile(r"[。！？]|[a-z,]\s[a-z]+\s[a-z]+\s[a-z]+\s[a-z]+(?:\s|[.,;:])[^=(){}]*[.:;,]?$")
FORMULA = re.compile(
    r"\$\$(?=[^$]{0,600}[\\^])(?:(?!\n\s*\n)[^$;]){1,2000}\$\$|\$(?![\s\d])[^$\n]{1,300}(?<![\s\\])\$(?!\w)"
    r"|\\\([^\n]{1,300}?\\\)|\\\[.{1,600}?\\\]"
    r"|\\begin\{(?:equation|align|gather|matrix|pmatrix|cases)\*?\}.{1,600}?\\end\{\w+\*?\}"
    r"|\\(?:frac|sqrt|sum|int|prod|lim|partial|infty|mathbb|mathrm|mathbf|left|right|cdot|times|leq?|geq?|neq"
    r"|alpha|beta|gamma|theta|lambda|sigma|pi|phi|sin|cos|log|exp)\b(?:\{[^{}]*\})*"
    r"|(?<![\w.])[\w'²³()]{1,8}(?:\s?[-+*/·×÷^]\s?[\w'²³().]{1,8}){0,12}\s?[=<>≤≥≈≡≠]\s?[-−]?[\w(√∑∫|][\w'²³().]{0,8}"
    r"(?:\s?[-+*/·×÷^=<≤−]\s?[\w'²³().√]{1,8}){1,12}"
    r"|[∀-⋿ℂℍℕℙℚℝℤ𝐀-𝟿°²³¹⁰-ₜ×÷±α-ωΓΔΘΛΞΠΣΦΨΩ⟨⟩⌈⌉⌊⌋]+", re.DOTALL)
WORD = re.compile("[a-z]{5,}")
TERMS = frozenset(
    "theorem theorems lemma lemmas corollary corollaries proof proofs conjecture conjectures polynomial polynomials "
    "eigenvalue eigenvalues eigenvector eigenvectors integral integrals derivative derivatives differential "
    "differentiable equation equations inequality inequalities logarithm logarithms prime primes numerator denominator "
    "hypotenuse triangle triangles isomorphic isomorphism homomorphism bijection bijective topology topological "
    "manifold manifolds algebra algebraic geometry geometric probability probabilities variance gaussian bernoulli "
    "euler riemann euclid euclidean modulo convergent convergence infinitesimal trigonometry trigonometric quadratic "
    "cubic divisor divisors congruent divides summation".split())
HAN_TERMS = re.compile(
    "定理|引理|推论|证明|猜想|多项式|特征值|特征向量|积分|导数|微分|求导|方程|不等式|对数|质数|素数|平方根|分子|分母|斜边|三角形|同构|同态|双射|拓扑|流形|代数"
    "|几何|概率|方差|正态分布|收敛|极限|三角函数|二次函数|数列|向量空间|矩阵|行列式|有理数|无理数|整除|余数")


class DomainParams(Section):
    """The shares of a text's characters from which on it is of a domain; code is asked first."""

    code: float = Field(gt=0, le=1, description="characters on lines of code")
    mathematics: float = Field(gt=0, le=1, description="characters in formulas and mathematical terms")


def domain(text: str, params: DomainParams) -> str:
    """"code", "mathematics" or "knowledge"."""
    code, mathematics = shares(text)
    if code >= params.code:
        return "code"
    return "mathematics" if mathematics >= params.mathematics else "knowledge"


def shares(text: str) -> tuple[float, float]:
    """(characters on lines of code, characters in formulas and mathematical terms off them), as shares of all that are
    not white space; (0, 0) for a text without any."""
    total = code = formulas = 0
    rest: list[str] = []
    for line, fence in fenced(text.split("\n")):
        length = len("".join(line.split()))
        total += length
        if fence in FORMULA_FENCES:
            formulas += length
        elif fence is not None or is_code(line):
            code += length
        else:
            rest.append(line)
    if not total:
        return 0.0, 0.0
    prose = "\n".join(rest)
    formulas += sum(len("".join(found.split())) for found in FORMULA.findall(prose))
    terms = (sum(len(word) for word in WORD.findall(prose.lower()) if word in TERMS)
             + sum(map(len, HAN_TERMS.findall(prose))))
    return code / total, min(1.0, (formulas + terms) / total)


def fenced(lines: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """(line, language of the fenced block it stands in, "" where unnamed, None outside) without the fences."""
    language = None
    for line in lines:
        if fence := FENCE.match(line):
            language = fence[1].lower() if language is None else None
        else:
            yield line, language


def is_code(line: str) -> bool:
    """Whether a line outside a fence reads like a statement of a programming language, not like a sentence."""
    line = line[:400].rstrip()
    return bool(COMMENT.match(line) or line and STATEMENT.match(line) and not SENTENCE.search(line))
