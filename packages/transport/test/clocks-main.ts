// The server of clocks.test.ts, in a process of its own: what it does is said by the path of the request.
import { type FaultConnection, responseHead, sse, startFaultServer } from '@millrace/testkit'

const content = sse([{ choices: [{ index: 0, delta: { content: 'word ' } }] }])
const noise: Readonly<Record<string, string>> = {
  comments: ': keep-alive\n\n',
  pings: 'event: ping\ndata: {"type":"ping"}\n\n',
  roles: sse([{ choices: [{ index: 0, delta: { role: 'assistant' } }] }]),
  empty: sse([{ choices: [{ index: 0, delta: { content: '' } }] }]),
  nulls: sse([{ choices: [{ index: 0, delta: { content: null } }] }]),
  bytes: ':',
  flood: `: ${'x'.repeat(4096)}\n\n`
}
const stream = responseHead(200, { 'content-type': 'text/event-stream', connection: 'close' })
const bytes = responseHead(200, { 'content-type': 'application/octet-stream', connection: 'close' })

let requests = 0
const server = await startFaultServer(async (connection) => {
  for (;;) {
    const { path } = await connection.request()
    requests++
    const [, name = '', kind = '', everyMs = '20', times = '1000000'] = path.split('/')
    await answer(connection, name, kind, Number(everyMs), Number(times))
  }
})

async function answer(connection: FaultConnection, name: string, kind: string, everyMs: number, times: number): Promise<void> {
  if (name === 'silent') return
  if (name === 'stalled-body') return connection.write(`${bytes}x`)
  if (name === 'late') {
    await connection.pause(everyMs)
    return connection.write(`${responseHead(200, { 'content-type': 'application/json', 'content-length': 11 })}{"ok":true}`)
  }
  if (name === 'slow-head') {
    const head = responseHead(200, { 'content-type': 'application/json', 'content-length': 2 })
    for (const character of head) {
      await connection.write(character)
      await connection.pause(everyMs)
    }
    return
  }
  if (name === 'drip-json') {
    await connection.write(responseHead(200, { 'content-type': 'application/json', 'content-length': times }))
    for (let sent = 0; sent < times; sent++) {
      await connection.write('1')
      await connection.pause(everyMs)
    }
    return
  }
  if (name === 'late-end') {
    await connection.write(`${responseHead(200, { 'content-type': 'text/plain', 'content-length': 2 })}a`)
    await connection.pause(everyMs)
    return connection.write('b')
  }
  if (name === 'error-body') return connection.write(`${responseHead(400, { 'content-length': 100 })}{"error":`)
  await connection.write(stream)
  // Nothing but noise, noise behind content, or content alone.
  if (name === 'after-content') await connection.write(content)
  for (let sent = 0; sent < times; sent++) {
    if (kind !== 'nothing')
      await connection.write(name === 'content' ? content.replace('word', `${kind}${sent}`) : (noise[kind] ?? ''))
    await connection.pause(everyMs)
  }
  await connection.write(sse([{ choices: [{ index: 0, delta: {}, finish_reason: 'stop' }] }, '[DONE]']))
  connection.end()
}

process.on('message', () => process.send?.({ requests, open: server.open, connections: server.connections }))
process.on('disconnect', () => void server.close().then(() => process.exit()))
process.send?.({ url: server.url })
