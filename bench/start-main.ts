// The time from the first import to an object that is ready to make calls: `start-main.ts <subject>`.

const subjects: Readonly<Record<string, () => Promise<object>>> = {
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

const create = subjects[process.argv[2] ?? '']
if (create === undefined) throw new TypeError(`the subjects are ${Object.keys(subjects).join(', ')}`)
const cpu = process.cpuUsage()
const startedAt = performance.now()
await create()
const ms = performance.now() - startedAt
const { user, system } = process.cpuUsage(cpu)
process.send?.({ ms, cpuMs: (user + system) / 1000 })
process.once('disconnect', () => process.exit())
