// The ways to read a stream. Each loads what it needs and no more, for each runs in a process of its own.
import { messages, model } from './traffic.ts'

/** Told each text as it comes; a promise makes the reader wait. */
export type OnText = (text: string) => Promise<void> | undefined

/** Reads one whole stream. Who does not look into the bytes tells no text but `''`, once, and gives their number. */
export type Read = (onText: OnText) => Promise<number | undefined>

const apiKey = 'bench'
const headers = { 'content-type': 'application/json', authorization: `Bearer ${apiKey}` }
const request = { model, messages }
const [{ content: instructions }, { content: prompt }] = messages

interface Event {
  readonly choices: readonly { readonly delta: { readonly content?: string | null } }[]
}

/** What ends a stream of this server. */
const lastData = '[DONE]'

/** `at`: where the requests go, up to the `/v1` of the path. */
const readers: Readonly<Record<string, (at: string) => Promise<Read>>> = {
  'undici.request bytes': async (at) => {
    const open = await opener(at)
    return async (onText) => {
      let bytes = 0
      for await (const piece of await open()) {
        if (bytes === 0) await onText('')
        bytes += piece.length
      }
      return bytes
    }
  },

  /** The least that gives the text: no check, no error, no deadline, and only the events of this server. */
  'undici.request and a line split': async (at) => {
    const open = await opener(at)
    return async (onText) => {
      const decoder = new TextDecoder()
      let tail = ''
      for await (const bytes of await open()) {
        const lines = (tail + decoder.decode(bytes, { stream: true })).split('\n')
        tail = lines.pop() ?? ''
        for (const line of lines) {
          if (!line.startsWith('data: {')) continue
          const text = (JSON.parse(line.slice(6)) as Event).choices[0]?.delta.content
          const wait = text ? onText(text) : undefined
          if (wait !== undefined) await wait
        }
      }
      return undefined
    }
  },

  'undici.request with eventsource-parser': parserReader,
  'undici.request with eventsource-parser again': parserReader,

  'adapter.stream': async (at) => {
    const adapter = await openAdapter(at)
    return async (onText) => {
      for await (const chunk of adapter.stream(request)) {
        const wait = chunk.type === 'text' ? onText(chunk.text) : undefined
        if (wait !== undefined) await wait
      }
      return undefined
    }
  },

  'adapter.stream text': async (at) => {
    const adapter = await openAdapter(at)
    const { onlyText } = await import('@millrace/streaming')
    const text = onlyText()
    return async (onText) => {
      for await (const piece of text(adapter.stream(request))) {
        const wait = onText(piece)
        if (wait !== undefined) await wait
      }
      return undefined
    }
  },

  'adapter.stream with operators': async (at) => {
    const { coalesce, limitTokens } = await import('@millrace/streaming')
    const { tokenizerFor } = await import('@millrace/tokens')
    const adapter = await openAdapter(at, [coalesce({ minChars: 40 }), limitTokens(1e9, tokenizerFor('gpt-5').counter)])
    return async (onText) => {
      for await (const chunk of adapter.stream(request)) {
        const wait = chunk.type === 'text' ? onText(chunk.text) : undefined
        if (wait !== undefined) await wait
      }
      return undefined
    }
  },

  'openai client': async (at) => {
    const { default: OpenAI } = await import('openai')
    const client = new OpenAI({ apiKey, baseURL: `${at}/v1` })
    return async (onText) => {
      for await (const chunk of await client.chat.completions.create({ ...request, stream: true })) {
        const text = chunk.choices[0]?.delta.content
        const wait = text ? onText(text) : undefined
        if (wait !== undefined) await wait
      }
      return undefined
    }
  },

  'LangChain ChatOpenAI.stream': async (at) => {
    const { ChatOpenAI } = await import('@langchain/openai')
    const chat = new ChatOpenAI({ apiKey, model, configuration: { baseURL: `${at}/v1` } })
    return async (onText) => {
      for await (const { text } of await chat.stream(messages)) {
        const wait = text === '' ? undefined : onText(text)
        if (wait !== undefined) await wait
      }
      return undefined
    }
  },

  'AI SDK streamText': async (at) => {
    const { streamText } = await import('ai')
    const { createOpenAI } = await import('@ai-sdk/openai')
    const chat = createOpenAI({ apiKey, baseURL: `${at}/v1` }).chat(model)
    return async (onText) => {
      for await (const text of streamText({ model: chat, instructions, prompt }).textStream) {
        const wait = onText(text)
        if (wait !== undefined) await wait
      }
      return undefined
    }
  }
}

/** What the goals are held against: checks the framing, and nothing else. */
async function parserReader(at: string): Promise<Read> {
  const { createParser } = await import('eventsource-parser')
  const open = await opener(at)
  return async (onText) => {
    const decoder = new TextDecoder()
    let wait: Promise<void> | undefined
    const parser = createParser({
      onEvent({ data }) {
        if (data === lastData) return
        const text = (JSON.parse(data) as Event).choices[0]?.delta.content
        if (text) wait = onText(text) ?? wait
      }
    })
    for await (const bytes of await open()) {
      parser.feed(decoder.decode(bytes, { stream: true }))
      if (wait === undefined) continue
      await wait
      wait = undefined
    }
    return undefined
  }
}

async function opener(at: string): Promise<() => Promise<AsyncIterable<Buffer>>> {
  const { Pool } = await import('undici')
  const { origin, pathname } = new URL(at)
  const pool = new Pool(origin)
  const path = `${pathname}/v1/chat/completions`
  return async () => {
    const { body } = await pool.request({ path, method: 'POST', headers, body: JSON.stringify({ ...request, stream: true }) })
    return body as AsyncIterable<Buffer>
  }
}

async function openAdapter(
  at: string,
  operators: import('@millrace/adapter').AdapterOptions['operators'] = []
): Promise<import('@millrace/adapter').Adapter> {
  const { createAdapter } = await import('@millrace/adapter')
  const { openai } = await import('@millrace/adapter/openai')
  return createAdapter({ provider: openai({ apiKey, baseURL: `${at}/v1` }), ...(operators.length > 0 && { operators }) })
}

export async function openReader(name: string, at: string): Promise<Read> {
  const read = await readers[name]?.(at)
  if (read === undefined) throw new TypeError(`${name} is no subject; they are ${Object.keys(readers).join(', ')}`)
  return read
}
