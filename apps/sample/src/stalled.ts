import type { ServerResponse } from 'node:http'

/**
 * Cuts off a response whose client takes nothing for `stallMs`, for its answer is held in memory, and one that has been
 * running for longer than `totalMs`. Silence of the provider's is no stall: nothing waits to be taken then. Not by the
 * socket's own timer, which a client resets that sends and never reads.
 */
export function cutStalled(response: ServerResponse, { stallMs, totalMs }: { stallMs: number; totalMs: number }): void {
  const startedAt = performance.now()
  let movedAt = startedAt
  let taken = 0
  const timer = setInterval(() => {
    const { socket } = response
    const now = performance.now()
    const waiting = response.writableLength + (socket?.writableLength ?? 0)
    const sofar = (socket?.bytesWritten ?? 0) - (socket?.writableLength ?? 0)
    if (waiting === 0 || sofar !== taken) movedAt = now
    taken = sofar
    if (now - movedAt >= stallMs || now - startedAt >= totalMs) response.destroy()
  }, stallMs / 4).unref()
  response.once('close', () => clearInterval(timer))
}
