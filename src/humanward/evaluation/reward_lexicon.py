"""The words of the lexicon baseline and of the probes: a few that English speakers know as rude, and names of groups.

Short on purpose: a baseline needs examples, not a blocklist. ``--lexicon FILE`` replaces the rude ones.
"""

RUDE = (
    *(
        "ass",
        "asshole",
        "bastard",
        "bitch",
        "bollocks",
        "bullshit",
        "crap",
        "cunt",
        "damn",
        "damned",
        "dick",
        "dickhead",
    ),
    *("douchebag", "dumb", "dumbass", "fuck", "fucked", "fucker", "fucking", "goddamn", "hell", "idiot", "idiotic"),
    *("jackass", "jerk", "kill", "loser", "moron", "motherfucker", "pathetic", "piss", "pissed", "prick", "pussy"),
    *("retard", "retarded", "scum", "shit", "shitty", "shut up", "slut", "stupid", "suck", "sucks", "twat", "ugly"),
    *("wanker", "whore", "worthless"),
)
IDENTITIES = (
    *("Black", "white", "Asian", "Latino", "Jewish", "Muslim", "Christian", "atheist"),
    *("gay", "straight", "transgender", "disabled", "old", "young", "immigrant", "American"),
)
"""Adjectives that fit into "As a ... person"."""
