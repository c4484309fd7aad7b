"""Sentences written for the project: groups of people named without malice, plain insults, and harmless strong words.

A detector that learns from web comments alone takes the name of a group for the insult that so often stands beside it,
and knows few insults of chat. These counterexamples correct both. The two detectors draw from disjoint templates
(``side`` 0 and 1), so that they share no sentence.
"""

from __future__ import annotations

import random

from humanward.demo.recipe.corpus import Labelled

GROUPS = (
    "gay", "lesbian", "bisexual", "trans", "transgender", "queer", "straight", "black", "white", "Asian",
    "African", "Latino", "Mexican", "Indian", "Chinese", "Jewish", "Muslim", "Christian", "Catholic", "Hindu",
    "Buddhist", "atheist", "disabled", "deaf", "blind", "autistic", "immigrant", "refugee", "female", "male",
    "old", "young", "American", "Arab", "Pakistani", "Irish", "Russian", "French", "fat", "poor",
)  # fmt: skip
PEOPLE = (
    "man", "woman", "person", "guy", "girl", "boy", "teacher", "neighbour", "friend", "doctor", "student",
    "mother", "father", "colleague", "couple", "family", "actor", "singer", "driver", "kid",
)  # fmt: skip
IDENTITY = (
    "I am {g}.", "I am a {g} {p}.", "My {p} is {g}.", "She is a {g} {p}.", "He is a {g} {p}.",
    "My neighbours are {g}.", "We are {g} and we live here.", "I have many {g} friends.",
    "{g} people live in this town.", "The {p} next door is {g}.", "I met a {g} {p} yesterday.",
    "{g} people are people like everyone else.", "I love my {g} {p}.", "My best friend is {g}.",
    "It was good to see a {g} {p} on TV.", "As a {g} {p}, I like this film.", "Are you {g}?",
    "They are a {g} {p}.", "There was a {g} {p} in the story.", "The {g} {p}s I know are funny.",
    "We are glad to be {g}.", "The new {p} at work is {g} and very kind.", "Many {g} people voted today.",
    "being {g} is normal", "you are {g}", "so you are a {g} {p}?", "Nothing wrong with being {g}.",
    "I stand with {g} people.", "No {g} {p} should be treated badly.",
    "I am happy that {g} people are safe here.", "is your {p} {g}?", "A {g} {p} wrote that book.",
)  # fmt: skip
INSULTS = (
    "you are {a} {n}", "what a {n} you are", "shut up, {n}", "shut your mouth you {n}", "you {n}!",
    "you're such {a} {n}.", "he is {a} {n} and everyone knows it", "nobody likes you, {n}", "go to hell, {n}",
    "I hate you, you {n}.", "get lost you {n}", "look at this {n}", "you sound like {a} {n}",
    "your mother is {a} {n}", "only {a} {n} would say that", "you stupid {n}, go away", "don't talk to me, {n}",
    "they are all {n}s", "stop being such {a} {n}", "she is {a} {n}", "are you {a} {n} or what?",
    "lol what {a} {n}", "I hope you choke, {n}", "you ugly {n}",
)  # fmt: skip
NOUNS = (
    ("idiot", "loser", "bitch", "asshole", "pig", "dumbass", "clown", "coward", "fucker", "whore", "piece of trash"),
    ("moron", "bastard", "jerk", "imbecile", "cunt", "piece of shit", "slut", "prick", "rat", "scumbag", "dickhead"),
)  # fmt: skip
CURSES = (
    "Go to hell.", "just go to hell already", "I hate you.", "I hate you so much", "you suck",
    "You suck so bad!", "fuck off", "Fuck you.", "shut up", "Shut the fuck up.", "kiss my ass", "screw you",
    "Screw you and your family.", "drop dead", "I hope you die", "you are worthless", "You are so stupid.",
    "you disgust me", "You make me sick.", "you're pathetic", "You are ugly and nobody wants you.",
    "nobody likes you", "get out of here, freak", "suck my dick", "eat shit", "bite me, you creep",
    "You are dumb as a rock.", "what the hell is wrong with you, stupid", "I will beat you up",
    "You should be ashamed of yourself, trash.",
)  # fmt: skip
HARMLESS = (
    "That was a damn good movie!", "I hate Mondays.", "this game is sick", "I killed it at work today",
    "what the heck", "I hate it when it rains.", "holy crap, that is great news", "you killed it!",
    "The dog is dead tired.", "I suck at chess.", "Shut up, no way, that is awesome!",
    "my phone is stupid slow", "I am such an idiot for losing my keys", "that is crazy good",
    "The villain dies at the end.", "hell yeah", "I am dying of laughter", "my boss is tough but fair",
    "I would kill for a coffee", "The fight scene was brutal.", "You are a genius.", "you are so kind",
    "you are my friend", "I disagree with you.", "You are wrong about that.", "that makes no sense to me",
    "You should go home.", "you are a good person", "Please stop.", "I do not like you.",
)  # fmt: skip


def sentences(side: int, count: int, seed: int) -> list[Labelled]:
    """``count`` harmless sentences about groups and half as many insults, with the short phrases of that side."""
    rng = random.Random(seed)
    neutral = [t.format(g=rng.choice(GROUPS), p=rng.choice(PEOPLE)) for t in rng.choices(IDENTITY[side::2], k=count)]
    neutral = [text if rng.random() < 0.5 else text[0].upper() + text[1:] for text in neutral]
    insults = []
    for template in rng.choices(INSULTS[side::2], k=count // 2):
        noun = rng.choice(NOUNS[side])
        insults.append(template.format(n=noun, a="an" if noun[0] in "aeiou" else "a"))
    return [Labelled(text, 0.0, 1.0, "templates") for text in neutral + 4 * list(HARMLESS[side::2])] + [
        Labelled(text, 0.95, 1.0, "templates") for text in insults + 4 * list(CURSES[side::2])
    ]
