"use strict";
// The games' rules: those of decouple/envs/games/, number for number, on the same random streams.

const MASK = (1n << 64n) - 1n;

function splitmix64(state) {
  let z = (state + 0x9e3779b97f4a7c15n) & MASK;
  z = ((z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n) & MASK;
  z = ((z ^ (z >> 27n)) * 0x94d049bb133111ebn) & MASK;
  return z ^ (z >> 31n);
}

// The random numbers of one game: game `index` of the agent with this seed.
class Stream {
  constructor(seed, index = 0) {
    this.state = splitmix64((BigInt(seed) << 32n) | BigInt(index));
  }

  uniform() {
    const found = splitmix64(this.state);
    this.state = (this.state + 0x9e3779b97f4a7c15n) & MASK;
    return Number(found >> 11n) * 2 ** -53;
  }
}

class Pong {
  static W = 64;
  static H = 48;
  static DT = 1000 / 30 / 1000; // seconds per frame
  static RADIUS = 1;
  static REACH = 3.5;
  static PADDLE = 1;
  static PLAYER_X = 4;
  static CPU_X = Pong.W - 4;
  static PLAYER_FACE = Pong.PLAYER_X + Pong.PADDLE / 2;
  static CPU_FACE = Pong.CPU_X - Pong.PADDLE / 2;
  static BALL_SPEED = 0.75 * Pong.H;
  static PUSH = 0.4 * Pong.H * Pong.DT;
  static CHASE = 0.6 * Pong.H * Pong.DT;
  static DRIFT = ((0.6 * Pong.H) / 4) * Pong.DT;
  static KICK = 0.05 * Pong.BALL_SPEED;
  static FRICTION = 0.9;
  static BOUNCE = -0.99;
  static TOP = Pong.REACH;
  static BOTTOM = Pong.H - Pong.REACH;
  static ACTIONS = ["up", "down", "nothing"];
  static LIMIT = 100000;
  static SIZE = [64, 48];

  constructor(stream) {
    this.stream = stream;
    this.reset();
  }

  reset() {
    this.playerScore = this.cpuScore = 0;
    this.playerY = this.cpuY = Pong.H / 2;
    this.playerVelocity = 0;
    this.ballY = Pong.H / 2;
    this.serve(this.stream.uniform() > 0.5 ? 1 : -1);
  }

  serve(direction) {
    this.ballX = Pong.W / 2;
    this.ballVx = Pong.BALL_SPEED * direction;
    this.ballVy = this.stream.uniform() * Pong.BALL_SPEED - 0.5 * Pong.BALL_SPEED;
  }

  // One frame -> [reward, whether the game is over].
  step(action) {
    this.moveBall();
    if (this.ballX <= 0) {
      this.cpuScore += 1;
      this.serve(-1);
      const over = this.cpuScore === 11;
      return [over ? -6 : -1, over];
    }
    if (this.ballX >= Pong.W) {
      this.playerScore += 1;
      this.serve(1);
      const over = this.playerScore === 11;
      return [over ? 6 : 1, over];
    }
    this.movePlayer(action);
    this.moveCpu();
    return [0, false];
  }

  moveBall() {
    const [beforeX, beforeY] = [this.ballX, this.ballY];
    let x = beforeX + this.ballVx * Pong.DT;
    let y = beforeY + this.ballVy * Pong.DT;
    if (x <= Pong.PLAYER_X + Pong.PADDLE && Pong.crosses(beforeX, beforeY, x, y, Pong.PLAYER_FACE, this.playerY)) {
      x = Math.max(0, x) + Pong.RADIUS;
      this.ballVx = -(this.ballVx + Pong.KICK);
      this.ballVy += 2 * this.playerVelocity;
      this.ballVy += this.stream.uniform() * 0.001 - 0.0005;
    } else if (x >= Pong.CPU_X - Pong.PADDLE && Pong.crosses(beforeX, beforeY, x, y, Pong.CPU_FACE, this.cpuY)) {
      x = Math.min(Pong.W, x) - Pong.RADIUS;
      this.ballVx = -(this.ballVx + Pong.KICK);
      this.ballVy += this.stream.uniform() * 0.001 - 0.0005;
    }
    if (y - Pong.RADIUS <= 0) {
      this.ballVy *= Pong.BOUNCE;
      y += 1;
    }
    if (y + Pong.RADIUS >= Pong.H) {
      this.ballVy *= Pong.BOUNCE;
      y -= 1;
    }
    [this.ballX, this.ballY] = [x, y];
  }

  static crosses(x, y, toX, toY, face, paddle) {
    const [alongX, alongY] = [toX - x, toY - y];
    const height = paddle + Pong.REACH - (paddle - Pong.REACH);
    const denominator = alongX * height;
    if (denominator === 0) return false;
    const [fromX, fromY] = [x - face, y - (paddle - Pong.REACH)];
    const onPaddle = (alongX * fromY - alongY * fromX) / denominator;
    const along = -(height * fromX) / denominator;
    return 0 <= onPaddle && onPaddle <= 1 && 0 <= along && along <= 1;
  }

  movePlayer(action) {
    this.playerVelocity = (this.playerVelocity + [-Pong.PUSH, Pong.PUSH, 0][action]) * Pong.FRICTION;
    this.playerY += this.playerVelocity;
    if (this.playerY <= Pong.TOP || this.playerY >= Pong.BOTTOM) {
      this.playerY = this.playerY <= Pong.TOP ? Pong.TOP : Pong.BOTTOM;
      this.playerVelocity = 0;
    }
  }

  moveCpu() {
    const chases = this.ballVx >= 0 && this.ballX >= Pong.W / 2;
    const [goal, distance] = chases ? [this.ballY, Pong.CHASE] : [Pong.H / 2, Pong.DRIFT];
    const down = this.cpuY <= goal;
    this.cpuY = Math.min(Math.max(this.cpuY, Pong.TOP), Pong.BOTTOM) + (down ? distance : -distance);
  }

  observation() {
    return [this.playerY, this.playerVelocity, this.cpuY, this.ballX, this.ballY, this.ballVx, this.ballVy];
  }

  // Rectangles [x, y, width, height, colour] around their middles, in the game's pixels.
  picture() {
    const points = (score, side, colour) =>
      Array.from({ length: score }, (_, point) => [32 + side * (2 + 2 * point), 1.5, 1, 1, colour]);
    return [
      [32, 24, 0.25, 48, "#39424f"],
      [Pong.PLAYER_X, this.playerY, 1, 7, "#78c8ff"],
      [Pong.CPU_X, this.cpuY, 1, 7, "#ffa078"],
      [this.ballX, this.ballY, 2, 2, "#ffffff"],
      ...points(this.playerScore, -1, "#78c8ff"),
      ...points(this.cpuScore, 1, "#ffa078"),
    ];
  }
}

class Pixelcopter {
  static WIDTH = 48;
  static HEIGHT = 48;
  static DT = 1000 / 30; // ms per frame
  static SPEED = 0.0004 * Pixelcopter.WIDTH;
  static SCROLL = Pixelcopter.SPEED * Pixelcopter.DT;
  static PUSHES = [Pixelcopter.SPEED * -0.875 * Pixelcopter.DT, Pixelcopter.SPEED * 0.09 * Pixelcopter.DT];
  static DRAG = 0.99;
  static COPTER_X = 16;
  static COPTER_SIZE = 2;
  static COPTER_HEIGHT = 0.05 * Pixelcopter.HEIGHT;
  static BLOCK = [4, 9]; // width and height
  static BLOCK_X = [48, 72];
  static BLOCK_Y = [12, 36];
  static COLUMN = [4, 72];
  static CORRIDOR = 0.25 * Pixelcopter.HEIGHT;
  static TOP = 0.125 * Pixelcopter.HEIGHT;
  static BOTTOM = 0.875 * Pixelcopter.HEIGHT;
  static TERRAIN = 4 * Pixelcopter.WIDTH;
  static NUM_LEFT = 13;
  static LOSS = -5;
  static ACTIONS = ["climb", "nothing"];
  static LIMIT = 1000;
  static SIZE = [48, 48];

  constructor(stream) {
    this.stream = stream;
    this.reset();
  }

  reset() {
    [this.y, this.momentum] = [Pixelcopter.HEIGHT / 2, 0];
    [this.blocks, this.columnX, this.columnY] = [[], [], []];
    this.addBlock();
    this.addTerrain(0);
  }

  addBlock() {
    const place = ([low, high]) => low + Math.trunc(this.stream.uniform() * (high - low));
    const x = place(Pixelcopter.BLOCK_X);
    this.blocks.push([x, place(Pixelcopter.BLOCK_Y)]);
  }

  addTerrain(start) {
    const frequency = 4.5 / Pixelcopter.WIDTH + (-0.01 + 0.02 * this.stream.uniform());
    for (let x = start + 2; x < start + Pixelcopter.TERRAIN + 2; x += 4) {
      const height = Math.sin(frequency * x + 0.5 * this.stream.uniform());
      this.columnX.push(x);
      this.columnY.push(Math.trunc(Pixelcopter.HEIGHT / 2 + 0.125 * Pixelcopter.HEIGHT * height));
    }
  }

  // Whether the integer rectangle of an object overlaps the copter's; touching edges do not count.
  overlaps(x, y, [width, height]) {
    const half = Pixelcopter.COPTER_SIZE / 2;
    const left = Math.trunc(x) - Math.floor(width / 2);
    const top = Math.trunc(y) - Math.floor(height / 2);
    const [copterLeft, copterTop] = [Pixelcopter.COPTER_X - half, Math.trunc(this.y) - half];
    const across = left < copterLeft + Pixelcopter.COPTER_SIZE && left + width > copterLeft;
    return across && top < copterTop + Pixelcopter.COPTER_SIZE && top + height > copterTop;
  }

  // The y of the columns that overlap the copter, in their order of arrival.
  columnsHere() {
    return this.columnY.filter((y, i) => this.overlaps(this.columnX[i], y, Pixelcopter.COLUMN));
  }

  step(action) {
    this.momentum = (this.momentum + Pixelcopter.PUSHES[action]) * Pixelcopter.DRAG;
    this.y += this.momentum;
    for (const block of this.blocks) block[0] -= Pixelcopter.SCROLL;
    this.columnX = this.columnX.map((x) => x - Pixelcopter.SCROLL);
    let dead = this.blocks.some(([x, y]) => this.overlaps(x, y, Pixelcopter.BLOCK));
    for (const y of this.columnsHere()) {
      const above = this.y - Pixelcopter.COPTER_HEIGHT <= y - Pixelcopter.CORRIDOR;
      dead = dead || above || this.y >= y + Pixelcopter.CORRIDOR;
    }
    let reward = 0;
    for (const block of [...this.blocks]) {
      if (block[0] <= Pixelcopter.COPTER_X && this.blocks.length === 1) {
        reward += 1;
        this.addBlock();
      }
      if (block[0] <= -Pixelcopter.BLOCK[0]) this.blocks.splice(this.blocks.indexOf(block), 1);
    }
    while (this.columnX[0] <= -Pixelcopter.COLUMN[0]) {
      reward += 1;
      this.columnX.shift();
      this.columnY.shift();
    }
    dead = dead || this.y < Pixelcopter.TOP || this.y > Pixelcopter.BOTTOM;
    if (this.columnX.length <= Pixelcopter.NUM_LEFT) this.addTerrain(Pixelcopter.WIDTH);
    return [dead ? reward + Pixelcopter.LOSS : reward, dead];
  }

  observation() {
    const [columnY] = this.columnsHere();
    const ahead = this.blocks.filter(([x]) => x > Pixelcopter.COPTER_X).sort((a, b) => a[0] - b[0] || a[1] - b[1]);
    const [x, blockY] = ahead[0];
    const toCeiling = this.y - (columnY - Pixelcopter.CORRIDOR);
    const toFloor = columnY + Pixelcopter.CORRIDOR - this.y;
    const [near, below] = [x - Pixelcopter.COPTER_X, blockY + Pixelcopter.BLOCK[1]];
    return [this.y, this.momentum, toCeiling, toFloor, near, blockY, below];
  }

  picture() {
    const columns = this.columnX.map((x, i) => [x, this.columnY[i]]).filter(([x]) => x < 52);
    return [
      ...columns.flatMap(([x, y]) => [-24, 24].map((off) => [x, y + off, 4.1, 24, "#589848"])),
      ...this.blocks.map(([x, y]) => [x, y + 0.5, 4, 9, "#e89030"]),
      [Pixelcopter.COPTER_X, this.y, 2, 2, "#ffffff"],
    ];
  }
}

const GAMES = { pong: Pong, pixelcopter: Pixelcopter };

// Episodes of a game, one after another: `skip` frames a step, the action repeated, until the end or the limit.
class Episodes {
  constructor(name, seed, skip) {
    this.kind = GAMES[name];
    this.skip = skip;
    this.limit = Math.ceil(this.kind.LIMIT / skip);
    this.game = new this.kind(new Stream(seed));
    this.begin();
  }

  begin() {
    [this.total, this.steps, this.over] = [0, 0, false];
  }

  // One step -> its reward. Where the episode is over, `over` says so, and the next observation begins another.
  step(action) {
    let [reward, ended] = [0, false];
    for (let frame = 0; frame < this.skip && !ended; frame++) {
      const [more, over] = this.game.step(action);
      [reward, ended] = [reward + more, over];
    }
    this.total += reward;
    this.steps += 1;
    this.over = ended || this.steps >= this.limit;
    return reward;
  }

  observation() {
    if (this.over) {
      this.game.reset();
      this.begin();
    }
    return this.game.observation();
  }
}
