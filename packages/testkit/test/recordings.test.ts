import { expect, it, test } from 'vitest'
import { loadRecordings, serveRecording } from '../src/index.ts'

const chats = loadRecordings({ api: 'openai.chat' })
const messages = loadRecordings({ api: 'anthropic.messages' })
if (chats === undefined) console.warn('tests that need ../shared/real are skipped: it is not beside the checkout')

test.skipIf(chats === undefined)('every recording has a body that its API would send', () => {
  expect(chats?.length).toBe(227)
  expect(messages?.length).toBe(52)
  for (const { id, status, headers, stream, body } of [...(chats ?? []), ...(messages ?? [])]) {
    expect(status, id).toBeGreaterThanOrEqual(200)
    expect(Object.keys(headers).filter((name) => /^(content-length|transfer-encoding|content-encoding)$/i.test(name))).toEqual([])
    if (status === 200 && stream) expect(body.toString(), id).toMatch(/^(data|event|id|retry)?:/m)
    if (status === 200 && !stream) expect(JSON.parse(body.toString()), id).toBeTypeOf('object')
  }
})

test.skipIf(chats === undefined)('payload lines become events again, named for Anthropic', () => {
  const line = messages?.find(({ features }) => features.includes('payload_lines'))
  expect(line?.body.toString()).toMatch(/^event: message_start\ndata: \{"type":"message_start".*\n\nevent: /)
  const chat = chats?.find(({ features }) => features.includes('payload_lines'))
  expect(chat?.body.toString()).toMatch(/^data: \{.*\n\ndata: \{/)
})

test.skipIf(chats === undefined)('an oracle comes with its recording', () => {
  for (const { id, oracle } of chats ?? []) if (oracle !== undefined) expect(oracle.id).toBe(id)
  expect(chats?.filter(({ oracle }) => oracle !== undefined).length).toBeGreaterThan(200)
})

test.skipIf(chats === undefined)('recordings come over the wire whole, with their status', async () => {
  for (const recording of (chats ?? []).filter((_, index) => index % 20 === 0)) {
    await using served = await serveRecording(recording, { seed: 1 })
    const response = await fetch(`${served.url}/chat/completions`, { method: 'POST', body: '{}' })
    expect(response.status).toBe(recording.status)
    expect(Buffer.from(await response.arrayBuffer()).equals(recording.body), recording.id).toBe(true)
  }
})

it('cuts a body at random places, the same ones for the same seed, and they arrive apart', async () => {
  const body = Buffer.from('0123456789'.repeat(200))
  const arrivals = async (seed: number): Promise<number> => {
    await using served = await serveRecording({ status: 200, headers: {}, body }, { seed, maxCutBytes: 40 })
    const parts: Uint8Array[] = []
    for await (const part of (await fetch(served.url)).body as ReadableStream<Uint8Array>) parts.push(part)
    expect(Buffer.concat(parts).equals(body)).toBe(true)
    return parts.length
  }
  expect(await arrivals(7)).toBeGreaterThan(10)
})
