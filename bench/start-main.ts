// The time from the first import to an object that is ready to make calls: `start-main.ts <subject>`.

const subjects: Readonly<Record<string, () => Promise<unknown>>> = {
  undici: async () => new (await import('undici')).Pool('http://127.0.0.1:1'),
  async '@millrace/transport'() {
    const { createTransport } = await import('@millrace/transport')
    return createTransport()
  },
  async '@millrace/adapter'() {
    const { createAdapter } = await import('@millrace/adapter')
    const { openai } = await import('@millrace/adapter/openai')
    return createAdapter({ provider: openai({ apiKey: 'bench' }) })
  },
  async openai() {
    const { default: OpenAI } = await import('openai')
    return new OpenAI({ apiKey: 'bench' })
  },
  async ai() {
    await import('ai')
    const { createOpenAI } = await import('@ai-sdk/openai')
    return createOpenAI({ apiKey: 'bench' }).chat('bench-1')
  },
  async '@langchain/openai'() {
    const { ChatOpenAI } = await import('@langchain/openai')
    return new ChatOpenAI({ apiKey: 'bench', model: 'bench-1' })
  }
}

const open = subjects[process.argv[2] ?? '']
if (open === undefined) throw new TypeError(`the subjects are ${Object.keys(subjects).join(', ')}`)
const startedAt = performance.now()
await open()
process.send?.(performance.now() - startedAt)
process.once('disconnect', () => process.exit())
