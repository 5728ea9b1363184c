// The server of stress.test.ts, in a process of its own: it does to each request what that request's own plan says.
import { gzipSync } from 'node:zlib'
import { type FaultConnection, responseHead, seededRandom, startFaultServer } from '@millrace/testkit'
import { type Act, answerOf, eventsOf, type Plan } from './stress-plan.ts'

const tries = new Map<string, number>()
const random = seededRandom(Number(process.argv[2]))
let requests = 0

const server = await startFaultServer(async (connection) => {
  for (;;) {
    const { body } = await connection.request()
    requests++
    const plan = JSON.parse(body) as Plan
    const number = tries.get(plan.id) ?? 0
    tries.set(plan.id, number + 1)
    const act = plan.acts[Math.min(number, plan.acts.length - 1)] as Act
    if (!(await play(connection, plan, act))) return
    if (act.idleMs !== undefined) closeLater(connection, act.idleMs)
  }
})

/** Closes when it likes, be it in the middle of the next request or answer. */
function closeLater(connection: FaultConnection, ms: number): void {
  const close = random() < 0.5 ? connection.end : connection.reset
  if (ms === 0) close()
  else setTimeout(close, ms).unref()
}

/** False where the connection is of no more use. */
async function play(connection: FaultConnection, plan: Plan, { fault, at, hintMs }: Act): Promise<boolean> {
  if (fault === 'stall') {
    const bytes = message(plan, 'chunked')
    await connection.write(bytes.subarray(0, at * bytes.length))
  }
  if (fault === 'stall' || fault === 'silence') {
    await connection.closed
    return false
  }
  if (fault === 'status') {
    const status = [429, 500, 503, 529, 408][Math.floor(at * 5)] ?? 500
    const hint = hintMs === undefined ? {} : { 'retry-after-ms': hintMs }
    const text = JSON.stringify({ error: { message: 'not now', type: 'server_error' } })
    await connection.write(
      responseHead(status, { 'content-type': 'application/json', 'content-length': text.length, ...hint }) + text
    )
    return true
  }
  if (fault === 'error-event') {
    const text = 'data: {"error":{"message":"busy","code":503}}\n\n'
    await connection.write(responseHead(200, { 'content-type': 'text/event-stream', 'content-length': text.length }) + text)
    return true
  }
  const bytes = message(plan, fault === 'close-delimited' ? 'close' : fault === 'gzip' ? 'gzip' : at < 0.5 ? 'length' : 'chunked')
  if (fault === 'reset' || fault === 'end') {
    const cut = Math.floor(at * bytes.length)
    if (cut > 0) await connection.write(bytes.subarray(0, cut))
    connection[fault]()
    return false
  }
  if (fault === 'drip') {
    const step = Math.ceil(bytes.length / 12)
    for (let from = 0; from < bytes.length; from += step) {
      await connection.write(bytes.subarray(from, from + step))
      await connection.pause(2)
    }
    return true
  }
  await connection.write(bytes)
  if (fault === 'close-delimited') connection.end()
  return fault !== 'close-delimited'
}

function message(plan: Plan, framing: 'length' | 'chunked' | 'close' | 'gzip'): Buffer {
  const type = plan.kind === 'stream' ? 'text/event-stream' : 'application/json'
  const pieces = (plan.kind === 'stream' ? eventsOf(plan) : [answerOf(plan)]).map((piece) => Buffer.from(piece))
  const whole = framing === 'gzip' ? gzipSync(Buffer.concat(pieces)) : Buffer.concat(pieces)
  const head = {
    length: { 'content-length': whole.length },
    chunked: { 'transfer-encoding': 'chunked' },
    close: { connection: 'close' },
    gzip: { 'content-length': whole.length, 'content-encoding': 'gzip' }
  }[framing] as Record<string, string | number>
  const body =
    framing === 'chunked'
      ? Buffer.concat([
          ...pieces.flatMap((piece) => [Buffer.from(`${piece.length.toString(16)}\r\n`), piece, Buffer.from('\r\n')]),
          Buffer.from('0\r\n\r\n')
        ])
      : whole
  return Buffer.concat([Buffer.from(responseHead(200, { 'content-type': type, ...head })), body])
}

process.on('message', () => process.send?.({ requests, open: server.open, connections: server.connections }))
process.on('disconnect', () => void server.close().then(() => process.exit()))
process.send?.({ url: server.url })
