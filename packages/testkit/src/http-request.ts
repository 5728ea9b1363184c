/** A request as it came over the wire. */
export interface FaultRequest {
  /** Request line and header lines, as they came. */
  readonly head: string
  readonly method: string
  readonly path: string
  /** Names in lower case. */
  readonly headers: Readonly<Record<string, string>>
  readonly body: string
}

/** The first whole request in these bytes and its length; `undefined` while it is not whole. */
export function parseRequest(bytes: Buffer): { readonly request: FaultRequest; readonly bytes: number } | undefined {
  const headEnd = bytes.indexOf('\r\n\r\n')
  if (headEnd === -1) return undefined
  const head = bytes.toString('latin1', 0, headEnd)
  const [requestLine = '', ...lines] = head.split('\r\n')
  const headers = Object.fromEntries(
    lines.map((line) => {
      const colon = line.indexOf(':')
      return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()]
    })
  )
  const start = headEnd + 4
  const body = /\bchunked$/i.test(headers['transfer-encoding'] ?? '')
    ? readChunks(bytes, start)
    : readLength(bytes, start, Number(headers['content-length'] ?? 0))
  if (body === undefined) return undefined
  const [method = '', path = ''] = requestLine.split(' ')
  return { request: { head, method, path, headers, body: body.bytes.toString() }, bytes: body.end }
}

function readLength(bytes: Buffer, start: number, length: number): { bytes: Buffer; end: number } | undefined {
  const end = start + length
  return bytes.length < end ? undefined : { bytes: bytes.subarray(start, end), end }
}

/** Without trailers: no client of ours sends any. */
function readChunks(bytes: Buffer, start: number): { bytes: Buffer; end: number } | undefined {
  const parts: Buffer[] = []
  for (let offset = start; ; ) {
    const lineEnd = bytes.indexOf('\r\n', offset)
    if (lineEnd === -1) return undefined
    const size = Number.parseInt(bytes.toString('latin1', offset, lineEnd), 16)
    const end = lineEnd + 2 + size + 2
    if (bytes.length < end) return undefined
    if (size === 0) return { bytes: Buffer.concat(parts), end }
    parts.push(bytes.subarray(lineEnd + 2, lineEnd + 2 + size))
    offset = end
  }
}
