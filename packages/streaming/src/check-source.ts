/** @throws {TypeError} when the stream was given in place of the options, as in `coalesce(stream)` */
export function checkNoSource(of: string, options: unknown): void {
  if (isAsyncIterable(options)) throw new TypeError(`${of} takes options: write ${of}()(stream)`)
}

/** @throws {TypeError} that says what to give instead; an operator would only fail at the first read */
export function checkSource(source: unknown, of: string = 'an operator such as coalesce()'): void {
  if (isAsyncIterable(source)) return
  if (isPromise(source)) throw new TypeError(`${of} takes an async iterable, not a promise: await the promise first`)
  throw new TypeError(`${of} takes an async iterable, not ${kindOf(source)}: such as adapter.stream(request)`)
}

export function isAsyncIterable(value: unknown): value is AsyncIterable<unknown> {
  return typeof (value as Partial<AsyncIterable<unknown>> | null | undefined)?.[Symbol.asyncIterator] === 'function'
}

/** A wrong value for a message: a text in quotes, so that `'10'` is seen to be no number. */
export function shown(value: unknown): string {
  return typeof value === 'string' ? JSON.stringify(value) : String(value)
}

function isPromise(value: unknown): boolean {
  return typeof (value as Partial<PromiseLike<unknown>> | null | undefined)?.then === 'function'
}

function kindOf(value: unknown): string {
  if (value === undefined || value === null) return String(value)
  if (Array.isArray(value)) return 'an array'
  return typeof value === 'object' ? 'an object' : `a ${typeof value}`
}
