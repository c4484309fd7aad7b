// Where to go after signing in: an address of this server, never one of another that a link smuggled in.

export function safeNext() {
  const wanted = new URLSearchParams(location.search).get("next") ?? "/";
  try {
    const address = new URL(wanted, location.origin);
    if (wanted.startsWith("/") && address.origin === location.origin) return address.pathname + address.search + address.hash;
  } catch {
    // Not an address at all.
  }
  return "/";
}
