/** A line of a text, from 1 on. One of `text` and `problem` is set. */
export type Line =
  | { readonly number: number; readonly text: string; readonly problem?: undefined }
  | { readonly number: number; readonly problem: string }

/** A longer line is no request: providers take less. */
const maxLineBytes = 32 * 1024 * 1024

/**
 * The lines of a file as it is read, with memory for the longest of them only. A byte order mark, blank lines and CRLF are
 * passed over; a line that is too long or no UTF-8 is told, not thrown, so that others can be looked at too.
 *
 * @example
 * for await (const line of readLines(createReadStream('in.jsonl'))) console.log(line.number)
 */
export async function* readLines(bytes: AsyncIterable<Uint8Array>): AsyncGenerator<Line, undefined> {
  const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
  let held: Uint8Array[] = []
  let heldBytes = 0
  let number = 0

  /** The line that ends with `last`; `undefined` for a blank one. */
  function take(last: Uint8Array): Line | undefined {
    number++
    const length = heldBytes + last.length
    const line = held.length === 0 ? last : Buffer.concat([...held, last])
    held = []
    heldBytes = 0
    if (length > maxLineBytes) return { number, problem: `is longer than ${maxLineBytes / 1024 / 1024} MiB` }
    try {
      const text = decoder.decode(line)
      const trimmed = (number === 1 && text.startsWith('\ufeff') ? text.slice(1) : text).trim()
      return trimmed === '' ? undefined : { number, text: trimmed }
    } catch {
      return { number, problem: 'is not UTF-8' }
    }
  }

  for await (const piece of bytes) {
    let from = 0
    for (let end = piece.indexOf(newline); end !== -1; end = piece.indexOf(newline, from)) {
      const line = take(piece.subarray(from, end))
      from = end + 1
      if (line !== undefined) yield line
    }
    const rest = piece.subarray(from)
    heldBytes += rest.length
    // Of a line that is too long only its length is kept.
    if (heldBytes > maxLineBytes) held = []
    else if (rest.length > 0) held.push(rest)
  }
  const last = heldBytes > 0 ? take(new Uint8Array()) : undefined
  if (last !== undefined) yield last
}

const newline = 0x0a
