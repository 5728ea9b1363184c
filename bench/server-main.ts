// A plain local model server, in a process of its own: it answers fixed bytes, so that its own work stays small and even.
// `server-main.ts 20` waits 20 ms before each whole answer.
import { createServer, type Socket } from 'node:net'
import { answerBody, eventTexts } from './traffic.ts'

const delayMs = Number(process.argv[2])
const plain = Buffer.from(
  `HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: ${Buffer.byteLength(answerBody)}\r\n\r\n${answerBody}`
)
const streamHead = 'HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n'
/** Each event is an HTTP chunk of its own; how many go out in one write: all streams that run at a time take turns. */
const eventsPerWrite = 32
const chunks = eventTexts.map((event) => `${Buffer.byteLength(event).toString(16)}\r\n${event}\r\n`)
const writes: readonly Buffer[] = Array.from({ length: Math.ceil(chunks.length / eventsPerWrite) }, (_, index) => {
  const text = chunks.slice(index * eventsPerWrite, (index + 1) * eventsPerWrite).join('')
  return Buffer.from(`${index === 0 ? streamHead : ''}${text}${(index + 1) * eventsPerWrite >= chunks.length ? '0\r\n\r\n' : ''}`)
})

function stream(socket: Socket, index = 0): void {
  const bytes = writes[index]
  if (bytes === undefined || socket.destroyed) return
  const next = (): void => stream(socket, index + 1)
  if (socket.write(bytes)) setImmediate(next)
  else socket.once('drain', next)
}

/** Requests come one after the other on a socket, each with a content-length, and rarely in more than one piece. */
function serve(socket: Socket): void {
  let held = ''
  socket.setNoDelay(true)
  socket.on('error', () => socket.destroy()) // a child that ends its process resets its sockets; the bench goes on
  socket.on('data', (bytes) => {
    held += bytes.toString('latin1')
    for (;;) {
      const bodyAt = held.indexOf('\r\n\r\n') + 4
      if (bodyAt === 3) return
      const head = held.slice(0, bodyAt)
      const end = bodyAt + Number(/\ncontent-length: *(\d+)/i.exec(head)?.[1] ?? 0)
      if (held.length < end) return
      const wantsStream = held.slice(bodyAt, end).includes('"stream":true')
      held = held.slice(end)
      if (wantsStream) stream(socket)
      else if (delayMs > 0) setTimeout(() => socket.write(plain), delayMs)
      else socket.write(plain)
    }
  })
}

const server = createServer(serve)
server.listen(0, '127.0.0.1', () => {
  const address = server.address()
  if (address !== null && typeof address === 'object') process.send?.(address.port)
})
process.once('disconnect', () => process.exit())
