"""Plural English word -> singular, as far as matching notions needs: both sides go through the same function."""

from __future__ import annotations

from typing import Final

_MAX_CACHED: Final = 200_000
_MAX_CACHED_CHARS: Final = 32

# Ends in "s" and is no plural, though the rules below would take it for one.
_SAME: Final = ("series", "species", "lens", "bias", "atlas", "canvas", "alias", "news", "always", "perhaps", "chaos")

# Plural: singular, for what the rules below would get wrong.
_IRREGULAR_PAIRS: Final = (
    "matrices:matrix matrixes:matrix vertices:vertex indices:index simplices:simplex apices:apex helices:helix "
    "vortices:vortex cortices:cortex directrices:directrix bisectrices:bisectrix codices:codex "
    "submatrices:submatrix subindices:subindex appendices:appendix "
    "axes:axis analyses:analysis hypotheses:hypothesis parentheses:parenthesis theses:thesis "
    "syntheses:synthesis antitheses:antithesis emphases:emphasis crises:crisis diagnoses:diagnosis oases:oasis "
    "radii:radius loci:locus foci:focus moduli:modulus calculi:calculus tori:torus nuclei:nucleus "
    "stimuli:stimulus annuli:annulus rhombi:rhombus abaci:abacus syllabi:syllabus genii:genius "
    "circumradii:circumradius inradii:inradius "
    "maxima:maximum minima:minimum extrema:extremum optima:optimum spectra:spectrum quanta:quantum "
    "suprema:supremum infima:infimum continua:continuum momenta:momentum strata:stratum "
    "criteria:criterion phenomena:phenomenon automata:automaton polyhedra:polyhedron "
    "tetrahedra:tetrahedron octahedra:octahedron hexahedra:hexahedron dodecahedra:dodecahedron "
    "icosahedra:icosahedron lemmata:lemma schemata:schema stigmata:stigma "
    "formulae:formula abscissae:abscissa parabolae:parabola hyperbolae:hyperbola genera:genus "
    "halves:half calves:calf shelves:shelf leaves:leaf wolves:wolf knives:knife lives:life wives:wife "
    "loaves:loaf selves:self dice:die feet:foot teeth:tooth men:man women:woman children:child mice:mouse "
    "geese:goose people:person oxen:ox "
    "radiuses:radius focuses:focus viruses:virus buses:bus bonuses:bonus statuses:status campuses:campus "
    "toruses:torus moduluses:modulus calculuses:calculus rhombuses:rhombus nucleuses:nucleus geniuses:genius "
    "abacuses:abacus gases:gas biases:bias lenses:lens canvases:canvas atlases:atlas aliases:alias "
    "quizzes:quiz topazes:topaz zeroes:zero heroes:hero potatoes:potato tomatoes:tomato echoes:echo "
    "caches:cache niches:niche aches:ache headaches:headache movies:movie cookies:cookie "
    "calories:calorie menus:menu"
)
_IRREGULAR: Final = dict(pair.split(":") for pair in _IRREGULAR_PAIRS.split())


def singular(word: str) -> str:
    """Returns the singular of a lower-case word; a word that is no plural stays itself. A possessive loses its end.

    >>> [singular(word) for word in ("primes", "matrices", "calculus", "series", "identities", "vieta's")]
    ['prime', 'matrix', 'calculus', 'series', 'identity', 'vieta']
    """
    return _CACHE[word]


def _singular(word: str) -> str:
    if word.endswith(("'s", "\u2019s")):
        return word[:-2]
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if len(word) <= 3 or not word.endswith("s") or word in _SAME or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("sses", "shes", "ches", "xes", "tzes")):
        return word[:-2]
    return word[:-1]


class _Cache(dict[str, str]):
    def __missing__(self, word: str) -> str:
        result = _singular(word)
        if len(word) <= _MAX_CACHED_CHARS:
            if len(self) >= _MAX_CACHED:
                self.clear()
            self[word] = result
        return result


_CACHE: Final = _Cache()
