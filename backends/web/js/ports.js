// What may go into a model: names, types and shapes, checked before anything is copied.

/** What holds numbers of each type, in the order of the C API. */
export const TYPES = {
  float32: Float32Array,
  int32: Int32Array,
  int64: BigInt64Array,
  uint8: Uint8Array,
  int8: Int8Array,
  bool: Uint8Array,
};

/** Something went wrong; the message says what to do about it. */
export class ModelError extends Error {
  name = "ModelError";
}

/**
 * One {data, dims} for each port, in the order of the ports.
 */
export function checkFeeds(ports, feeds) {
  if (feeds === null || typeof feeds !== "object") {
    throw new ModelError(`run takes an object with the inputs by name: {${ports.map((port) => port.name).join(", ")}}`);
  }
  const names = ports.map((port) => port.name);
  const unknown = Object.keys(feeds).filter((name) => !names.includes(name));
  const missing = names.filter((name) => feeds[name] === undefined);
  if (unknown.length || missing.length) {
    const what = missing.length ? `lacks the input ${list(missing)}` : `has no input ${list(unknown)}`;
    throw new ModelError(`${missing.length ? "run" : "the model"} ${what}; the inputs are ${list(names)}`);
  }
  return ports.map((port) => checked(port, feeds[port.name]));
}

function checked(port, value) {
  const plain = ArrayBuffer.isView(value);
  const data = plain || Array.isArray(value) ? value : value?.data;
  const wanted = TYPES[port.type].name;
  // By name: an array of another frame or worker has another constructor.
  const got = Object.prototype.toString.call(data).slice(8, -1);
  if (got !== wanted) {
    throw new ModelError(`input ${quote(port.name)} is ${port.type}: give a ${wanted}, not ${got === "Undefined" ? "nothing" : got}`);
  }
  const shape = `[${port.dims.join(", ")}]`;
  const open = port.dims.some((dim) => typeof dim === "string");
  if (plain && open) {
    throw new ModelError(`input ${quote(port.name)} is ${shape}, open in ${list(port.dims.filter(isName))}: give {data, dims}`);
  }
  const dims = plain ? port.dims : Array.from(value.dims ?? [], Number);
  const fits = (dim, i) => Number.isSafeInteger(dim) && dim >= 0 && (isName(port.dims[i]) || dim === port.dims[i]);
  if (dims.length !== port.dims.length || !dims.every(fits)) {
    throw new ModelError(`input ${quote(port.name)} has the dims [${dims.join(", ")}]; the model takes ${shape}`);
  }
  const size = dims.reduce((product, dim) => product * dim, 1);
  if (data.length !== size) {
    throw new ModelError(`input ${quote(port.name)} has ${data.length} numbers; its dims [${dims.join(", ")}] make ${size}`);
  }
  return { data, dims };
}

function isName(dim) {
  return typeof dim === "string";
}

function list(names) {
  return names.map(quote).join(", ");
}

function quote(name) {
  return JSON.stringify(name);
}
