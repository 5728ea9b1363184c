/**
 * Refuses options that are no object, and names nobody knows: a misspelt option would silently be its default. `known` has
 * a key for every option, so that a new option does not compile until it is named.
 *
 * @throws {TypeError} that names the option and those there are
 *
 * @example
 * checkOptions<CacheOptions>('createCache', options, { ttlMs: 1, maxBytes: 1 })
 */
export function checkOptions<Options extends object>(
  of: string,
  options: Options,
  known: Readonly<Record<keyof Options, 1>>
): void {
  const given: unknown = options
  if (typeof given !== 'object' || given === null || Array.isArray(given)) {
    throw new TypeError(
      `${of} takes an object of options, not ${given === null ? 'null' : Array.isArray(given) ? 'an array' : typeof given}`
    )
  }
  for (const name of Object.keys(given)) {
    if (!Object.hasOwn(known, name))
      throw new TypeError(`${of} has no option ${JSON.stringify(name)}; it has ${Object.keys(known).join(', ')}`)
  }
}
