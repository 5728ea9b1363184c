import type { ServerResponse } from 'node:http'
import type { Socket } from 'node:net'

/**
 * Cuts off a response whose client takes nothing for `stallMs`, for its answer is held in memory, and one that has been
 * running for longer than `totalMs`. Silence of the provider's is no stall: nothing waits to be taken then. Not by the
 * socket's own timer, which a client resets that sends and never reads.
 */
export function cutStalled(response: ServerResponse, { stallMs, totalMs }: { stallMs: number; totalMs: number }): void {
  const startedAt = performance.now()
  let movedAt = startedAt
  let takenBefore = 0
  const timer = setInterval(() => {
    const { socket } = response
    const now = performance.now()
    const taken = socket === null ? 0 : takenOf(socket)
    // One that was asked behind another on its connection has no socket before its turn.
    const isWaiting = socket !== null && response.writableLength + socket.writableLength > 0
    if (!isWaiting || taken !== takenBefore) movedAt = now
    takenBefore = taken
    if (now - movedAt >= stallMs || now - startedAt >= totalMs) response.destroy()
  }, stallMs / 4).unref()
  response.once('close', () => clearInterval(timer))
}

/**
 * A number that moves when the system takes bytes. Node counts a write when it hands it over, and only the handle below the
 * socket tells how much of a large one is still to go; where it does not tell, a write counts when it is done.
 */
function takenOf(socket: Socket): number {
  const handle: unknown = Reflect.get(socket, '_handle')
  const left = typeof handle === 'object' && handle !== null && 'writeQueueSize' in handle ? handle.writeQueueSize : undefined
  return socket.bytesWritten - (typeof left === 'number' ? left : socket.writableLength)
}
