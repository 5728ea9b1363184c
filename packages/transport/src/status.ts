import type { HttpResponse } from '@millrace/core'

/** What the provider really said: a stream may refuse after a 200. */
export function statusOf({ refusal, status }: HttpResponse): number {
  return refusal ?? status
}

/** Trouble of the server that may have passed the next time; any other refusal would be the same. */
export function isPassing(status: number): boolean {
  return status === 408 || status === 429 || status >= 500
}
