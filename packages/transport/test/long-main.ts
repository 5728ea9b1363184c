// Calls of many minutes in seconds: for this process time runs three hundred times as fast. Scaled are the global timers and
// `performance.now`, which are all that Millrace and undici tell time by; not the socket's own timers and not the kernel's,
// so it is also looked that nobody sets the former. The server, in another process, lives in real time.
import { Socket } from 'node:net'

const scale = 300
const realNow = performance.now.bind(performance)
const startedAt = realNow()
performance.now = () => startedAt + (realNow() - startedAt) * scale
const realTimeout = globalThis.setTimeout
globalThis.setTimeout = new Proxy(realTimeout, {
  apply: (target, self, [callback, ms = 0, ...rest]: [() => void, number?, ...unknown[]]) =>
    Reflect.apply(target, self, [callback, ms / scale, ...rest])
})
let socketTimers = 0
const realSocketTimeout = Socket.prototype.setTimeout
Socket.prototype.setTimeout = function (ms, callback) {
  if (ms > 0) socketTimers++
  return realSocketTimeout.call(this, ms, callback)
}

// After the clocks are set, as a program behind `--import` would.
const { createTransport } = await import('@millrace/transport')
const { Client } = await import('undici')

const [, , url = ''] = process.argv
const sixMinutes = 1200 // real milliseconds for 360 s

/** What a call through bare undici, with its own limits of 300 s, ends with. */
async function control(path: string): Promise<string> {
  const client = new Client(url)
  try {
    const { body } = await client.request({ method: 'POST', path, body: '{}' })
    await body.text()
    return 'no limit'
  } catch (error) {
    return (error as { code: string }).code
  } finally {
    await client.destroy()
  }
}

const transport = createTransport({ timeouts: { idleMs: 1_000_000, totalMs: 1_200_000 } })
async function call(path: string): Promise<string> {
  const { body } = await transport.send({ method: 'POST', url: url + path, headers: {}, body: '{"stream":true}' })
  return body.text()
}

const [body, head, ...results] = await Promise.all([
  control(`/late-end//${sixMinutes}`),
  control(`/late//${sixMinutes}`),
  call(`/late//${sixMinutes}`),
  call(`/late-end//${sixMinutes}`),
  call(`/content/w/${sixMinutes}/2`).then((text) => [...text.matchAll(/w\d+ /g)].join('')),
  call('/silent').catch(
    ({ details }: { details: { clock: string; limitMs: number } }) => `${details.clock} after ${details.limitMs}`
  )
])
await transport.close()
const names = ['head', 'body', 'stream', 'total']
const told = Object.fromEntries(results.map((result, index) => [names[index], result]))
process.stdout.write(JSON.stringify({ control: `${body} ${head}`, ...told, timers: String(socketTimers) }))
