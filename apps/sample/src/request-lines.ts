/** A line of text, or one that was too long to be read. */
export type RequestLine = { readonly text: string } | { readonly tooLong: true }

/**
 * The lines of a body, read as they are asked for: no more than one line and one read are held. One that is longer than
 * `maxBytes` is passed over, and told.
 */
export async function* requestLines(body: ReadableStream<Uint8Array>, maxBytes: number): AsyncGenerator<RequestLine> {
  let pieces: Uint8Array[] = []
  let bytes = 0

  function add(piece: Uint8Array): void {
    bytes += piece.byteLength
    if (bytes <= maxBytes) pieces.push(piece)
    else pieces = []
  }

  function take(): RequestLine {
    const line = bytes <= maxBytes ? { text: Buffer.concat(pieces).toString('utf8') } : { tooLong: true as const }
    pieces = []
    bytes = 0
    return line
  }

  for await (const read of body) {
    let start = 0
    for (let end = read.indexOf(lineFeed); end !== -1; end = read.indexOf(lineFeed, start)) {
      add(read.subarray(start, end))
      yield take()
      start = end + 1
    }
    if (start < read.byteLength) add(read.subarray(start))
  }
  if (bytes > 0) yield take()
}

const lineFeed = 10
