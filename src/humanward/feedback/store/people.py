"""People: one-time links, passwords, browser sessions, API tokens, roles.

Every secret is made by ``secrets`` when it is needed and kept as a SHA-256 hash (they have 256 bits, so that a slow
hash adds nothing); passwords, which people choose, are hashed by argon2id.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error
from sqlalchemy import bindparam, select, update
from sqlalchemy.orm import Session
from sqlalchemy.orm.util import identity_key

from humanward.feedback.store.audit import TERMINAL, Actor, record
from humanward.feedback.store.errors import RefusedError, conflict, forbidden, invalid, not_found
from humanward.feedback.store.models import (
    ROLES,
    ApiToken,
    BrowserSession,
    Invitation,
    Membership,
    Project,
    User,
)
from humanward.feedback.store.session import Store

SESSION_DAYS = 14
LINK_HOURS = 72
PASSWORD_LENGTHS = (10, 200)
_HASHER = PasswordHasher()
# Verified against when there is no such user, so that the time taken does not tell.
_NOBODY = _HASHER.hash(secrets.token_hex(16))
_RANK = {"annotator": 0, "reviewer": 1, "admin": 2}


@dataclass(frozen=True)
class SignedIn:
    """A new browser session: the cookie's value, known to nobody else."""

    actor: Actor
    cookie: str
    expires_at: datetime


def digest(token: str) -> str:
    """What is stored of a secret."""
    return hashlib.sha256(token.encode()).hexdigest()


def csrf_token(cookie: str) -> str:
    """The token that a page sends with every change: derived from its cookie, which scripts cannot read."""
    return hmac.new(cookie.encode(), b"humanward csrf", hashlib.sha256).hexdigest()


def check_name(name: str) -> str:
    """The name without blanks around it; raises RefusedError for an empty, long or unprintable one."""
    name = name.strip()
    if not name or len(name) > 100 or not name.isprintable() or name.endswith(")"):
        raise invalid("name", "is empty, longer than 100 characters, not printable or ends in ')'; choose another")
    return name


def hash_password(password: str) -> str:
    """argon2id; raises RefusedError for one that is too short or too long."""
    low, high = PASSWORD_LENGTHS
    if not low <= len(password) <= high:
        raise invalid("password", f"has {len(password)} characters; choose one of {low} to {high}")
    return _HASHER.hash(password)


# --- one-time links ----------------------------------------------------------------------------------------------


def invite(
    store: Store,
    actor: Actor,
    *,
    project_id: int | None,
    role: str,
    name: str = "",
    hours: float = LINK_HOURS,
) -> tuple[Invitation, str]:
    """An invitation and its token, which is shown once. Without a project it invites an owner of the server."""
    if role not in (*ROLES, "owner"):
        raise invalid("role", f"{role!r} is not one of {', '.join(ROLES)}")
    token = secrets.token_urlsafe(32)
    now = store.now()
    with store.write() as db:
        if project_id is None or role == "owner":
            if not actor.owner:
                raise forbidden("only an owner of this server may invite another")
            project_id, role = None, "owner"
        else:
            require(db, actor, project_id, "admin")
        row = Invitation(
            token_hash=digest(token),
            project_id=project_id,
            role=role,
            name=check_name(name) if name else "",
            created_by=actor.user_id,
            created_at=now,
            expires_at=now + timedelta(hours=hours),
        )
        db.add(row)
        db.flush()
        record(db, now, actor, "people.invite", f"invitation {row.id}", project_id, role=role, name=row.name)
    return row, token


def sign_in_link(store: Store, actor: Actor, user_id: int, *, hours: float = 1) -> str:
    """A token that signs this person in once."""
    token = secrets.token_urlsafe(32)
    now = store.now()
    with store.write() as db:
        user = _user(db, user_id)
        row = Invitation(
            token_hash=digest(token),
            user_id=user.id,
            role="sign-in",
            name=user.name,
            created_by=actor.user_id,
            created_at=now,
            expires_at=now + timedelta(hours=hours),
        )
        db.add(row)
        db.flush()
        record(db, now, actor, "people.sign_in_link", f"user {user.id}")
    return token


def open_link(db: Session, store: Store, token: str) -> Invitation:
    """The link of a token if it still works; raises RefusedError 410 for one that is used, over, revoked or unknown."""
    row = db.scalar(select(Invitation).where(Invitation.token_hash == digest(token)).with_for_update())
    if row is None or row.used_at or row.revoked_at or row.expires_at <= store.now():
        raise RefusedError(410, "link_gone", "this link is used, over or unknown; ask for a new one")
    return row


def enter(store: Store, token: str, *, name: str = "", password: str = "") -> SignedIn:
    """Use a one-time link: sign its person in, or make the invited person with a name (and, if wanted, a password)."""
    hashed = hash_password(password) if password else None
    with store.write() as db:
        now = store.now()
        link = open_link(db, store, token)
        if link.user_id is not None:
            user = _user(db, link.user_id)
        else:
            user = _new_user(db, now, name or link.name, hashed, owner=link.role == "owner")
            if link.project_id is not None:
                db.add(Membership(user_id=user.id, project_id=link.project_id, role=link.role, created_at=now))
            record(db, now, _actor(user, "session"), "people.join", f"user {user.id}", link.project_id, role=link.role)
        link.used_at, link.used_by = now, user.id
        return _start_session(db, store, user)


def join(store: Store, actor: Actor, token: str) -> None:
    """Use an invitation as somebody who is signed in already: adds the project to theirs, never lowers a role."""
    with store.write() as db:
        now = store.now()
        link = open_link(db, store, token)
        if actor.user_id is None or link.user_id is not None or link.project_id is None:
            raise RefusedError(409, "not_an_invitation", "this link invites to no project; sign out to use it")
        member = db.get(Membership, (actor.user_id, link.project_id))
        if member is None:
            db.add(Membership(user_id=actor.user_id, project_id=link.project_id, role=link.role, created_at=now))
        elif _RANK[link.role] > _RANK[member.role]:
            member.role = link.role
        link.used_at, link.used_by = now, actor.user_id
        record(db, now, actor, "people.join", f"user {actor.user_id}", link.project_id, role=link.role)


def revoke_invitation(store: Store, actor: Actor, invitation_id: int, project_id: int | None = None) -> None:
    """Make an unused link worthless; with ``project_id`` only one of that project."""
    with store.write() as db:
        row = db.get(Invitation, invitation_id)
        if row is None or (project_id is not None and row.project_id != project_id):
            raise not_found("invitation", invitation_id)
        if row.project_id is None:
            if not actor.owner:
                raise not_found("invitation", invitation_id)
        else:
            require(db, actor, row.project_id, "admin")
        if row.used_at:
            raise conflict("link_used", f"invitation {invitation_id}: was used; take the person's role away instead")
        row.revoked_at = row.revoked_at or store.now()
        record(db, store.now(), actor, "people.revoke_invitation", f"invitation {row.id}", row.project_id)


# --- signing in ---------------------------------------------------------------------------------------------------


def log_in(store: Store, name: str, password: str) -> SignedIn:
    """Sign in by name and password; raises RefusedError 401 with the same words and delay whatever was wrong."""
    with store.read() as db:
        user = db.scalar(select(User).where(User.name == name.strip()))
        stored = user.password_hash if user and user.password_hash and not user.disabled else None
    try:
        _HASHER.verify(stored or _NOBODY, password)
        good = stored is not None
    except Argon2Error:
        good = False
    if not good or user is None:
        raise RefusedError(401, "wrong_credentials", "name or password is wrong; try again or ask for a one-time link")
    with store.write() as db:
        return _start_session(db, store, _user(db, user.id))


_OF_COOKIE = (
    select(User.id, User.name, User.owner)
    .join(BrowserSession, BrowserSession.user_id == User.id)
    .where(
        BrowserSession.token_hash == bindparam("hash"),
        BrowserSession.revoked_at.is_(None),
        BrowserSession.expires_at > bindparam("now"),
        User.disabled.is_(False),
    )
)


def actor_of_cookie(store: Store, cookie: str) -> Actor | None:
    """Whose browser this is, None when the session is over."""
    with store.glance() as connection:
        row = connection.execute(_OF_COOKIE, {"hash": digest(cookie), "now": store.now()}).first()
    return Actor(row.id, row.name, row.owner, "session") if row else None


def log_out(store: Store, actor: Actor, cookie: str) -> None:
    """End this browser's session."""
    with store.write() as db:
        db.execute(
            update(BrowserSession).where(BrowserSession.token_hash == digest(cookie)).values(revoked_at=store.now())
        )
        record(db, store.now(), actor, "people.log_out", f"user {actor.user_id}")


def set_password(store: Store, actor: Actor, password: str, *, keep_cookie: str = "") -> None:
    """Set the actor's own password and end all their other sessions."""
    hashed = hash_password(password)
    with store.write() as db:
        user = _user(db, actor.user_id)
        user.password_hash = hashed
        db.execute(
            update(BrowserSession)
            .where(
                BrowserSession.user_id == user.id,
                BrowserSession.revoked_at.is_(None),
                BrowserSession.token_hash != digest(keep_cookie),
            )
            .values(revoked_at=store.now())
        )
        record(db, store.now(), actor, "people.set_password", f"user {user.id}")


# --- API tokens ---------------------------------------------------------------------------------------------------


def create_token(
    store: Store, actor: Actor, name: str, *, project_id: int | None = None, days: float | None = None
) -> tuple[ApiToken, str]:
    """A new key for the actor's programs, shown once: it can do what they can, in ``project_id`` alone if given."""
    secret = f"hw_{secrets.token_urlsafe(32)}"
    now = store.now()
    with store.write() as db:
        if project_id is not None:
            require(db, actor, project_id, "annotator")
        row = ApiToken(
            token_hash=digest(secret),
            prefix=secret[:9],
            name=check_name(name),
            user_id=_user(db, actor.user_id).id,
            project_id=project_id,
            created_at=now,
            expires_at=now + timedelta(days=days) if days else None,
        )
        db.add(row)
        db.flush()
        record(db, now, actor, "token.create", f"token {row.id}", project_id, name=row.name)
    return row, secret


_OF_TOKEN = (
    select(User.id, User.name, User.owner, ApiToken.project_id)
    .join(ApiToken, ApiToken.user_id == User.id)
    .where(
        ApiToken.token_hash == bindparam("hash"),
        ApiToken.revoked_at.is_(None),
        (ApiToken.expires_at.is_(None)) | (ApiToken.expires_at > bindparam("now")),
        User.disabled.is_(False),
    )
)


def actor_of_token(store: Store, secret: str) -> Actor | None:
    """Whose key this is, None when it is unknown, revoked or over."""
    with store.glance() as connection:
        row = connection.execute(_OF_TOKEN, {"hash": digest(secret), "now": store.now()}).first()
    return Actor(row.id, row.name, row.owner and row.project_id is None, "token", row.project_id) if row else None


def tokens_of(db: Session, actor: Actor) -> list[ApiToken]:
    """The actor's keys, newest first."""
    return list(db.scalars(select(ApiToken).where(ApiToken.user_id == actor.user_id).order_by(ApiToken.id.desc())))


def revoke_token(store: Store, actor: Actor, token_id: int) -> None:
    """Make one of the actor's keys (an owner: anybody's) worthless."""
    with store.write() as db:
        row = db.get(ApiToken, token_id)
        if row is None or (row.user_id != actor.user_id and not actor.owner):
            raise not_found("token", token_id)
        row.revoked_at = row.revoked_at or store.now()
        record(db, store.now(), actor, "token.revoke", f"token {row.id}", row.project_id)


# --- roles --------------------------------------------------------------------------------------------------------


def role_in(db: Session, actor: Actor, project_id: int) -> str | None:
    """The actor's role in a project, None without one."""
    if actor.only_project not in (None, project_id):
        return None
    if actor.owner:
        return "admin"
    member = db.get(Membership, (actor.user_id, project_id))
    if member is None and actor.only_project is not None:
        # An owner's token for one project: admin there, nothing elsewhere.
        user = db.get(User, actor.user_id)
        return "admin" if user is not None and user.owner else None
    return member.role if member else None


def require(db: Session, actor: Actor, project_id: int, role: str) -> Project:
    """The project, if the actor has at least ``role`` in it; 404 without any role, 403 with a lower one."""
    project, own = _project_and_role(db, actor, project_id)
    if project is None or own is None:
        raise not_found("project", project_id)
    if _RANK[own] < _RANK[role]:
        raise forbidden(f"this needs the role {role}; yours in this project is {own}")
    return project


_PROJECT_AND_MEMBER = (
    select(Project, Membership)
    .outerjoin(Membership, (Membership.project_id == Project.id) & (Membership.user_id == bindparam("user")))
    .where(Project.id == bindparam("project"))
)


def _project_and_role(db: Session, actor: Actor, project_id: int) -> tuple[Project | None, str | None]:
    """As ``role_in`` with the project, for most people in one query, or none when both were loaded before."""
    if actor.owner or actor.only_project is not None or actor.user_id is None:
        return db.get(Project, project_id), role_in(db, actor, project_id)
    known = db.identity_map.get(identity_key(Project, project_id))
    member = db.identity_map.get(identity_key(Membership, (actor.user_id, project_id)))
    if known is not None and member is not None:
        return known, member.role
    found = db.execute(_PROJECT_AND_MEMBER, {"user": actor.user_id, "project": project_id}).first()
    if found is None:
        return None, None
    return found[0], found[1].role if found[1] is not None else None


def set_role(store: Store, actor: Actor, project_id: int, user_id: int, role: str | None) -> None:
    """Give a member another role, or with None take the membership away."""
    if role is not None and role not in ROLES:
        raise invalid("role", f"{role!r} is not one of {', '.join(ROLES)}")
    with store.write() as db:
        require(db, actor, project_id, "admin")
        member = db.get(Membership, (user_id, project_id))
        if member is None:
            raise not_found("member", user_id)
        before = member.role
        if role is None:
            db.delete(member)
        else:
            member.role = role
        record(db, store.now(), actor, "people.role", f"user {user_id}", project_id, before=before, after=role)


def members(db: Session, project_id: int) -> list[tuple[User, Membership]]:
    """The people of a project by name."""
    rows = db.execute(
        select(User, Membership)
        .join(Membership, Membership.user_id == User.id)
        .where(Membership.project_id == project_id)
        .order_by(User.name)
    )
    return [(user, member) for user, member in rows]


def add_user(store: Store, name: str, *, owner: bool = False, simulated: bool = False, actor: Actor = TERMINAL) -> User:
    """Somebody without a password, who signs in by links; simulated annotators never sign in."""
    with store.write() as db:
        user = _new_user(db, store.now(), name, None, owner=owner, simulated=simulated)
        record(db, store.now(), actor, "people.add", f"user {user.id}", name=user.name, simulated=simulated)
        return user


def user_named(db: Session, name: str) -> User | None:
    """The person of that name."""
    return db.scalar(select(User).where(User.name == name))


def _user(db: Session, user_id: int | None) -> User:
    user = db.get(User, user_id) if user_id is not None else None
    if user is None or user.disabled or user.simulated:
        raise not_found("user", user_id)
    return user


def _new_user(
    db: Session, now: datetime, name: str, hashed: str | None, *, owner: bool = False, simulated: bool = False
) -> User:
    name = check_name(name)
    if user_named(db, name) is not None:
        raise invalid("name", f"{name!r} is taken; choose another", "name_taken")
    user = User(name=name, password_hash=hashed, owner=owner, simulated=simulated, disabled=False, created_at=now)
    db.add(user)
    db.flush()
    return user


def _actor(user: User, via: str) -> Actor:
    return Actor(user.id, user.name, user.owner, via)


def _start_session(db: Session, store: Store, user: User) -> SignedIn:
    cookie = secrets.token_urlsafe(32)
    now = store.now()
    expires = now + timedelta(days=SESSION_DAYS)
    db.add(BrowserSession(token_hash=digest(cookie), user_id=user.id, created_at=now, expires_at=expires))
    record(db, now, _actor(user, "session"), "people.sign_in", f"user {user.id}")
    return SignedIn(_actor(user, "session"), cookie, expires)
