const picture = find("picture"), slider = find("slider"), readout = find("readout");
const kept = data.frames.map((source) => Object.assign(new Image(), { src: source })); // decoded once, so that no frame flickers
player(slider, find("button"), data.seconds, (position) => {
  const i = Math.round(position);
  if (picture.src !== kept[i].src) picture.src = kept[i].src;
  readout.textContent = data.names[i];
  slider.setAttribute("aria-valuetext", `${data.label} = ${data.names[i]}`);
});
