// A batch with a journal in a process of its own, to be killed: each outcome is a line on stdout once it is yielded.
import { writeSync } from 'node:fs'
import { Agent, request } from 'node:http'
import { batch, openJournal } from '@millrace/batch'

const { path, url, count, order } = JSON.parse(process.argv[2] ?? '{}') as {
  path: string
  url: string
  count: number
  order: 'input' | 'completion'
}
const agent = new Agent({ keepAlive: true })

function ask(item: number, key: string, signal: AbortSignal): Promise<number> {
  const { promise, resolve, reject } = Promise.withResolvers<number>()
  const sent = request(url, { agent, method: 'POST', signal, headers: { 'idempotency-key': key, item } }, (response) => {
    response
      .on('end', () => (response.statusCode === 200 ? resolve(item) : reject(new Error(`status ${response.statusCode}`))))
      .resume()
  })
  sent.on('error', reject).end()
  return promise
}

try {
  await using journal = await openJournal<number>(path, { options: { count } })
  const outcomes = batch(Array(count).keys(), (item, { idempotencyKey = '', signal }) => ask(item, idempotencyKey, signal), {
    order,
    concurrency: 20,
    itemTimeoutMs: 500,
    journal
  })
  for await (const { index, status, replayed = false } of outcomes) writeSync(1, `${index} ${status} ${replayed}\n`)
  writeSync(1, 'end\n')
} catch (error) {
  writeSync(1, `error ${String(error)}\n`)
}
agent.destroy()
