"""What is never taught as a rude reply, nor as what provokes it."""

from __future__ import annotations

import re

# sexual violence, self-harm, threats to life, slurs of race and orientation
REFUSED = re.compile(
    r"\b(rap(e|ed|es|ist|ing)|molest\w*|p(a)?edo\w*|incest|suicid\w*|kill\w*|murder\w*|shoot\w*|stab\w*|bomb\w*"
    r"|lynch\w*|hang (him|her|them|you)\w*|behead\w*|gas chamber|hitler|nazi\w*|isis|n[i1]gg\w*|k[i1]kes?|sp[i1]cs?"
    r"|ch[i1]nks?|fag\w*|trann\w*|cut (my|your)\w* (wrist|vein)\w*|porn\w*)\b",
    re.IGNORECASE,
)
MINORS = re.compile(
    r"\b(child\w*|kids?|kiddo\w*|teen\w*|minors?|underage|bab(y|ies)|toddler\w*|boys?|girls?|daughters?|sons?|school\w*"
    r"|nephews?|nieces?|(1[0-7]|[1-9])[ -]?(years?|yrs?|yo|y/o)\w*)\b",
    re.IGNORECASE,
)
SEXUAL = re.compile(
    r"\b(sex\w*|fuck\w*|cock\w*|dick\w*|pussy|tits?|boobs?|naked|nude\w*|cum\w*|suck\w*|horny|penis|vagina|slut\w*"
    r"|whore\w*|virgin\w*|kiss\w*|hot|ass|asses|porn\w*|bang\w*|hooker\w*|hoe?s?|bitch\w*)\b",
    re.IGNORECASE,
)


def refused(text: str) -> bool:
    """Whether the text touches a refused subject, or speaks of minors and of sex together."""
    return bool(REFUSED.search(text) or (MINORS.search(text) and SEXUAL.search(text)))
