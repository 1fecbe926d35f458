"""Two pictures in one frame, with a slider that uncovers one or the other. A component of its own; no queries."""

import base64

from streamlit.components.v2 import component

_HTML = """<figure class="compare">
  <div class="frame"><img class="after"><img class="before"></div>
  <input type="range" min="0" max="100" value="50" aria-label="How much of the picture is shown as it was before">
  <figcaption><span>before</span><span>after</span></figcaption>
</figure>"""
_CSS = """
.compare { margin: 0; color: var(--st-text-color); font-family: var(--st-font); }
.frame { position: relative; border: 1px solid var(--st-border-color); border-radius: var(--st-base-radius);
  overflow: hidden; background: var(--st-secondary-background-color); --cut: 50%; }
.frame img { display: block; width: 100%; max-height: 75vh; object-fit: contain; }
.before { position: absolute; inset: 0; height: 100%; background: var(--st-secondary-background-color);
  clip-path: inset(0 calc(100% - var(--cut)) 0 0); }
.frame::after { content: ""; position: absolute; top: 0; bottom: 0; left: var(--cut); width: 2px;
  background: var(--st-primary-color); }
input { width: 100%; margin: 0.75rem 0 0; accent-color: var(--st-primary-color); }
figcaption { display: flex; justify-content: space-between; }
"""
_JS = """export default function({ data, parentElement }) {
  for (const name of ["before", "after"]) {
    const picture = parentElement.querySelector("." + name);
    picture.src = data[name];
    picture.alt = data[name + "_alt"];
  }
  const frame = parentElement.querySelector(".frame");
  const slider = parentElement.querySelector("input");
  const move = () => frame.style.setProperty("--cut", slider.value + "%");
  slider.oninput = move;
  move();
}"""
_component = component("imgpipe_compare", html=_HTML, css=_CSS, js=_JS)


def compare(before: bytes, after: bytes, *, what: str, key: str) -> None:
    """Show two JPEGs, one over the other.

    Args:
        before: The picture on the left of the slider.
        after: The picture on its right.
        what: What both show, for those who do not see them.
        key: Of the component on its page.
    """
    data = {
        "before": _uri(before),
        "after": _uri(after),
        "before_alt": f"{what} before enhancement",
        "after_alt": f"{what} after enhancement",
    }
    _component(data=data, key=key)


def _uri(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
