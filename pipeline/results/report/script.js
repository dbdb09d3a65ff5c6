"use strict";
const root = document.documentElement;

const theme = document.getElementById("theme");
const isDark = () =>
  root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
const showTheme = () => { theme.textContent = isDark() ? "Light" : "Dark"; };
theme.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; showTheme(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showTheme);
showTheme();

addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => { part.open = true; }));

const cards = [...document.querySelectorAll(".card")];
const sliders = [...document.querySelectorAll(".slider")];

// Each image is embedded once, in the strip; the stage shows the same pixels.
const copy = (layer, label) => {
  const source = layer.closest(".card").querySelector(`.strip img[alt="${label}"]`);
  layer.src = source.src;
  layer.alt = label;
  layer.classList.toggle("pixelated", source.classList.contains("pixelated"));
};
document.querySelectorAll(".stage img").forEach((layer) => copy(layer, layer.alt));

const move = (slider, percent) => {
  slider.value = percent;
  slider.parentElement.style.setProperty("--split", `${slider.value}%`);
  slider.setAttribute("aria-valuetext", `${slider.value} percent`);
};

// Left and right move the divider, as a range does by itself; up and down go from image to image.
const goTo = (slider) => {
  slider.focus();
  slider.closest(".card").scrollIntoView({ block: "nearest" });
};
const onKey = (event) => {
  const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const next = sliders[sliders.indexOf(event.target) + step];
  if (next) goTo(next);
};

sliders.forEach((slider) => {
  const stage = slider.parentElement;
  const follow = (event) => {
    const box = stage.getBoundingClientRect();
    move(slider, 100 * (event.clientX - box.left) / box.width);
  };
  slider.addEventListener("input", () => move(slider, slider.value));
  slider.addEventListener("keydown", onKey);
  stage.addEventListener("pointerdown", (event) => {
    stage.setPointerCapture(event.pointerId);
    slider.focus({ preventScroll: true });
    follow(event);
  });
  stage.addEventListener("pointermove", (event) => {
    if (stage.hasPointerCapture(event.pointerId)) follow(event);
  });
});

// "measurement" or "original": what the restored image is divided from.
cards.forEach((card) => {
  const buttons = [...card.querySelectorAll(".against button")];
  const against = (chosen) => {
    const { label } = chosen.dataset;
    buttons.forEach((button) => button.setAttribute("aria-pressed", String(button === chosen)));
    copy(card.querySelector(".stage-before"), label);
    card.querySelector(".tag-before").textContent = label;
    card.querySelector(".slider").setAttribute("aria-label", `Divide ${label} from restored, ${card.ariaLabel}`);
  };
  buttons.forEach((button) => button.addEventListener("click", () => against(button)));
});
