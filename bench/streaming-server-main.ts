// A local model server that only streams, in a process of its own. The first part of the path says what:
//   /event /packed /cut   2,000 events in that shape, as fast as they are taken
//   /long                 200 MB of events
//   /flood                events without end, as fast as they are taken
//   /paced                events without end, one every 5 ms
//   /silent               the first words, and then nothing
//   /last                 what became of the last stream without end, as JSON
import type { Socket } from 'node:net'
import { type Asked, serve } from './serve.ts'
import {
  chunkOf,
  firstEvent,
  lastEvents,
  longRepeats,
  repeated,
  shapes,
  streamHead,
  streamTail,
  writesOf
} from './streaming-traffic.ts'

/** What became of a stream without end. */
export interface Last {
  /** Bytes the kernel has taken. */
  readonly taken: number
  /** `process.hrtime()` of the close, in milliseconds: the same clock in all processes. Null while it is open. */
  readonly closedAt: number | null
}

const paceMs = 5
const prepared = new Map(shapes.map((shape) => [`/${shape}`, writesOf(shape)]))
const begin = Buffer.concat([Buffer.from(streamHead), chunkOf(firstEvent)])
const words = repeated.map(chunkOf)
const many = Buffer.concat(words)
let last: { taken: number; closedAt: number | null } = { taken: 0, closedAt: null }

function* long(): Generator<Buffer, undefined> {
  yield begin
  for (let sent = 0; sent < longRepeats; sent++) yield many
  yield Buffer.concat([chunkOf(lastEvents), Buffer.from(streamTail)])
}

function* flood(): Generator<Buffer, undefined> {
  yield begin
  for (;;) yield many
}

function send(socket: Socket, writes: Iterator<Buffer>, taken?: (bytes: number) => void): void {
  const { done, value } = writes.next()
  if (done === true || socket.destroyed) return
  const next = (): void => send(socket, writes, taken)
  if (socket.write(value, taken && (() => taken(value.length)))) setImmediate(next)
  else socket.once('drain', next)
}

function pace(socket: Socket): void {
  let index = 0
  socket.write(begin)
  const timer = setInterval(() => socket.write(words[index++ % words.length] as Buffer), paceMs)
  socket.once('close', () => clearInterval(timer))
}

/** What is said of it is said to who asks next. */
function follow(socket: Socket): typeof last {
  const followed = { taken: 0, closedAt: null as number | null }
  last = followed
  socket.once('close', () => {
    followed.closedAt ??= Number(process.hrtime.bigint()) / 1e6
  })
  return followed
}

serve(({ path }: Asked, socket: Socket): void => {
  const what = /^\/\w+/.exec(path)?.[0] ?? ''
  const writes = prepared.get(what)
  if (writes !== undefined) send(socket, writes.values())
  else if (what === '/long') send(socket, long())
  else if (what === '/flood') {
    const followed = follow(socket)
    send(socket, flood(), (bytes) => {
      followed.taken += bytes
    })
  } else if (what === '/paced') {
    follow(socket)
    pace(socket)
  } else if (what === '/silent') {
    follow(socket)
    socket.write(Buffer.concat([begin, many]))
  } else {
    const body = JSON.stringify(last satisfies Last)
    socket.write(`HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`)
  }
})
