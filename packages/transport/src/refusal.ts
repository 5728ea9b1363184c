import type { HttpBody } from '@millrace/core'

/** An error body is read up to here; the rest is given up with its socket. */
const maxBytes = 64 * 1024

/** And for so long: a server that stalls inside an error has said what matters by its status. */
const maxMs = 5000

/**
 * The body of a response that is not what was asked for, as far as it comes: at most 64 KiB, and what there is after 5
 * seconds or when it breaks off. It never rejects; a body that was read to its end leaves the socket usable.
 *
 * @example
 * if (response.status >= 400) console.error(response.status, await readRefusal(response.body))
 */
export async function readRefusal(body: HttpBody): Promise<string> {
  const pieces: Uint8Array[] = []
  let bytes = 0
  const timer = setTimeout(() => body.cancel(), maxMs)
  try {
    for await (const batch of body) {
      pieces.push(...batch)
      for (const piece of batch) bytes += piece.byteLength
      if (bytes > maxBytes) break
    }
  } catch {
    // It broke off, or took too long: what came before is what there is to say.
  } finally {
    clearTimeout(timer)
  }
  return Buffer.concat(pieces).subarray(0, maxBytes).toString()
}
