"use strict";
// The actor: its numbers in float32, from base64, and what it does with an observation.

function floats(text) {
  const binary = atob(text);
  const bytes = Uint8Array.from(binary, (letter) => letter.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}

const ACTIVATIONS = {
  linear: (x) => x,
  relu: (x) => (x < 0 ? 0 : x), // NaN stays NaN, as in PyTorch
  tanh: (x) => Math.tanh(x),
  elu: (x, slope) => (x > 0 ? x : slope * Math.expm1(x)),
  silu: (x) => x / (1 + Math.exp(-x)),
  leaky_relu: (x, slope) => (x > 0 ? x : slope * x),
};

class Actor {
  // `told` is what the page's writer wrote: layers, scaling, the kind of action, its bounds.
  constructor(told) {
    this.told = told;
    this.layers = told.layers.map((layer) => ({
      ...layer,
      weight: floats(layer.weight), // outputs x inputs, row by row
      bias: floats(layer.bias),
      out: new Float32Array(layer.outputs),
      activate: ACTIVATIONS[layer.activation],
    }));
    this.mean = told.mean === null ? null : floats(told.mean);
    this.std = told.std === null ? null : floats(told.std);
    this.bounds = Object.fromEntries(Object.entries(told.bounds).map(([name, of]) => [name, floats(of)]));
    this.input = new Float32Array(told.layers[0].inputs);
  }

  // An observation as the task gives it -> the action as the task takes it: an index, or numbers.
  act(observation) {
    const { told, input } = this;
    input.set(observation);
    if (this.mean !== null) {
      for (let i = 0; i < input.length; i++) {
        input[i] = Math.fround(input[i] - this.mean[i]) / this.std[i];
        if (told.clip !== null && input[i] > told.clip) input[i] = told.clip;
        if (told.clip !== null && input[i] < -told.clip) input[i] = -told.clip;
      }
    }
    let x = input;
    for (const layer of this.layers) {
      const { weight, bias, out, inputs, outputs, activate, slope } = layer;
      for (let j = 0, at = 0; j < outputs; j++) {
        let sum = bias[j];
        for (let i = 0; i < inputs; i++, at++) sum += weight[at] * x[i];
        out[j] = activate(Math.fround(sum), slope);
      }
      x = out;
    }
    return told.kind === "continuous" ? this.bounded(x) : this.chosen(x);
  }

  // The largest output of each choice; the first of equal ones.
  chosen(x) {
    const indices = [];
    let first = 0;
    for (const choices of this.told.choices) {
      let best = 0;
      for (let i = 1; i < choices; i++) if (x[first + i] > x[first + best]) best = i;
      indices.push(best);
      first += choices;
    }
    if (this.told.kind === "index") return indices[0];
    if (this.told.kind === "indices") return indices;
    return Array.from({ length: this.told.size }, (_, i) => Number(i === indices[0]));
  }

  bounded(x) {
    const { low, high, middle, half_range: half } = this.bounds;
    if (low === undefined) return Array.from(x);
    return Array.from(x, (value, i) => {
      const unit = Math.fround(middle[i] + Math.fround(half[i] * Math.fround(Math.tanh(value))));
      return unit < low[i] ? low[i] : unit > high[i] ? high[i] : unit;
    });
  }
}
