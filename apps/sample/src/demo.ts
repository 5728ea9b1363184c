import diagnostics from 'node:diagnostics_channel'
import { setTimeout as delay } from 'node:timers/promises'
import { CallFailed, type CallResult, call, type Target } from './caller.ts'
import { ConfigError, embeddedKey, readConfig } from './config.ts'
import { gatewayFigures } from './demo-figures.ts'
import { forkGateway, type GatewayAddresses } from './replica.ts'
import { createProgress, type Run, table } from './report.ts'
import { type Conversation, createWorkload } from './workload.ts'

/** With a provider that costs money, the demo asks less of it, and more slowly. */
const load = { embedded: { calls: 200, perSecond: 30 }, real: { calls: 24, perSecond: 4 } }
/** The embedded model is taken to hold so many tokens; longer talks lose their oldest turns. */
const embeddedContextWindow = 1024

/** `pnpm demo`: the same work through plain `fetch` and through the gateway, and a table of what it took. */
async function main(): Promise<void> {
  const config = readConfig(process.env)
  const embedded = config.providers.length === 0
  const { calls, perSecond } = embedded ? load.embedded : load.real
  const workload = createWorkload({ calls, perSecond })
  const distinct = new Set(workload.map(({ messages }) => JSON.stringify(messages))).size

  const gateway = await startGateway(embedded)
  try {
    const { model, upstream } = gateway
    const where = embedded ? 'the embedded provider, which allows 20 requests a second' : upstream.baseURL
    console.log(`\n  ${calls} calls, ${distinct} of them different, ${perSecond} new ones a second, to ${where}\n`)
    const direct: Target = { ...upstream, apiKey: config.providers[0]?.apiKey ?? embeddedKey, model, maxTokens: 200 }
    const plain = await runPlain(workload, direct)
    const millrace = await runMillrace(workload, {
      ...direct,
      baseURL: `${gateway.url}/v1`,
      apiKey: config.operatorToken ?? 'none'
    })
    console.log(`\n${table(plain, millrace)}`)
    console.log(`  Both sides use the same client code; Millrace is the sample gateway, one more process in between.
  Fewer calls: equal questions were asked once (cache, and joining calls in flight).${embedded ? `\n  Fewer tokens: fewer calls, and talks beyond ${embeddedContextWindow} tokens lost their oldest turns.` : ''}
  Start it for yourself: npx -y pnpm@12.21.0 start\n`)
  } finally {
    await gateway.close()
  }
}

interface GatewayProcess extends GatewayAddresses {
  close(): Promise<void>
}

async function startGateway(embedded: boolean): Promise<GatewayProcess> {
  const env = { ...process.env, PORT: '0', ...(embedded && { MILLRACE_CONTEXT_WINDOW: String(embeddedContextWindow) }) }
  const { child, ended, said } = await forkGateway(env)
  if (said === undefined) throw new CallFailed('the gateway did not start')
  return {
    ...said,
    async close() {
      child.disconnect()
      await ended
    }
  }
}

async function runPlain(workload: readonly Conversation[], target: Target): Promise<Run> {
  let socketsOpened = 0
  const opened = (): void => void socketsOpened++
  // Node's own fetch tells of every socket it opens.
  diagnostics.subscribe('undici:client:connected', opened)
  try {
    const { results, wallMs } = await runAll('plain fetch', workload, target)
    return {
      calls: results,
      wallMs,
      upstreamRequests: sum(results, (result) => result.requests),
      socketsOpened,
      tokensIn: sum(results, (result) => result.tokensIn)
    }
  } finally {
    diagnostics.unsubscribe('undici:client:connected', opened)
  }
}

async function runMillrace(workload: readonly Conversation[], target: Target): Promise<Run> {
  const { results, wallMs } = await runAll('Millrace', workload, target)
  const { upstreamRequests, socketsOpened, tokensIn } = await gatewayFigures(target)
  return { calls: results, wallMs, upstreamRequests, socketsOpened, tokensIn }
}

async function runAll(
  title: string,
  workload: readonly Conversation[],
  target: Target
): Promise<{ results: CallResult[]; wallMs: number }> {
  const progress = createProgress(title, workload.length, process.stdout)
  const startedAt = performance.now()
  const results: CallResult[] = []
  // Users do not wait for each other: each call starts at its own time, whatever became of those before it.
  await Promise.all(
    workload.map(async (conversation) => {
      await delay(conversation.startMs)
      results.push(await call(conversation, target))
      progress.step()
    })
  )
  progress.end()
  return { results, wallMs: performance.now() - startedAt }
}

function sum<T>(items: readonly T[], value: (item: T) => number): number {
  return items.reduce((total, item) => total + value(item), 0)
}

try {
  // Awaited at the top, so that a demo that loses its way ends with exit code 13 and not with 0.
  await main()
} catch (error) {
  process.exitCode = 1
  console.error(error instanceof CallFailed || error instanceof ConfigError ? `\nmillrace: ${error.message}` : error)
}
