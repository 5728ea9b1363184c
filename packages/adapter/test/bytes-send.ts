import type { HttpResponse, Send } from '@millrace/core'

/** What a server answered, without a server. */
export interface Answered {
  readonly status?: number
  readonly headers?: Readonly<Record<string, string | readonly string[]>>
  /** Of each read, the pieces it brought. */
  readonly batches: Iterable<readonly Uint8Array[]>
}

/** A wire that answers every request with these bytes, cut like this. */
export function bytesSend({ status = 200, headers = { 'content-type': 'text/event-stream' }, batches }: Answered): Send {
  return async (): Promise<HttpResponse> => {
    let cancelled = false
    async function* read(): AsyncGenerator<readonly Uint8Array[]> {
      for (const batch of batches) {
        if (cancelled) return
        yield batch
      }
    }
    const names = Object.entries(headers).map(([name, value]) => [name.toLowerCase(), [value].flat().join(', ')])
    return {
      status,
      headers: Object.fromEntries(names) as Record<string, string>,
      attempts: 1,
      body: {
        [Symbol.asyncIterator]: read,
        async text() {
          return Buffer.concat([...batches].flat()).toString()
        },
        cancel() {
          cancelled = true
        }
      }
    }
  }
}

/** Cuts bytes into pieces of 1 to `maxBytes`, and these into reads of 1 to `maxPieces`. */
export function cutBytes(
  body: Uint8Array,
  random: () => number,
  { maxBytes, maxPieces }: { readonly maxBytes: number; readonly maxPieces: number }
): readonly (readonly Uint8Array[])[] {
  const batches: Uint8Array[][] = []
  let left = 0
  for (let start = 0; start < body.length; ) {
    const end = start + 1 + Math.floor(random() * maxBytes)
    if (left === 0) {
      batches.push([])
      left = 1 + Math.floor(random() * maxPieces)
    }
    batches.at(-1)?.push(body.subarray(start, end))
    left--
    start = end
  }
  return batches
}
