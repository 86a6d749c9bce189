// What the client scripts share.

/** Says that something holds, or ends the program with what was seen instead. */
export function check(what, condition, seen) {
  if (!condition) {
    console.error(`FAILED ${what}: ${JSON.stringify(seen)}`);
    process.exit(1);
  }
  console.log(`ok ${what}`);
}

/** The error that a call must end in. */
export async function raises(what, status, call) {
  let seen;
  try {
    seen = await call();
  } catch (error) {
    check(what, (error.status ?? error.statusCode) === status, String(error));
    return error;
  }
  check(what, false, seen);
}

export const citySchema = {
  type: "object",
  properties: {
    name: { type: "string", maxLength: 20 },
    population: { type: "integer", minimum: 0, maximum: 100000000 },
    capital: { type: "boolean" },
  },
  required: ["name", "population", "capital"],
  additionalProperties: false,
};

export const weatherParameters = {
  type: "object",
  properties: { city: { type: "string", maxLength: 20 } },
  required: ["city"],
  additionalProperties: false,
};
