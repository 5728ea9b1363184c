// A plain local model server, in a process of its own: it answers fixed bytes, so that its own work stays small and even.
// `server-main.ts 20` waits 20 ms before each answer.
import { serve } from './serve.ts'
import { answerBody } from './traffic.ts'

const delayMs = Number(process.argv[2])
const plain = Buffer.from(
  `HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: ${Buffer.byteLength(answerBody)}\r\n\r\n${answerBody}`
)

serve((_, socket) => {
  if (delayMs > 0) setTimeout(() => socket.write(plain), delayMs)
  else socket.write(plain)
})
