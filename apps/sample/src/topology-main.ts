import { once } from 'node:events'
import { parseArgs } from 'node:util'
import { requirePrometheus, requireRedis } from '@millrace/testkit'
import { startTopology, type Topology } from './topology.ts'
import {
  type Proof,
  proveCancel,
  proveCrash,
  proveDrain,
  proveOneCall,
  proveOneLimit,
  proveResume,
  proveReturn
} from './topology-proofs.ts'
import { proveScrape, type Watcher } from './topology-scrape.ts'

/**
 * `pnpm topology`: three gateways, a balancer, Redis and Prometheus on this machine, and what they do together as a list;
 * `--keep` leaves them running. It ends with 1 where one of the claims does not hold.
 */
async function main(keep: boolean): Promise<void> {
  const { server: redis, skip } = await requireRedis()
  if (redis === undefined) throw new Error(skip)
  try {
    const topology = await startTopology({ redisURL: redis.url })
    const watcher = await watch(topology)
    try {
      await show(topology, watcher)
      if (keep) await wait(topology, watcher)
    } finally {
      await watcher?.stop()
      const codes = await topology.close()
      print({
        claim: 'everything ends when it is asked to',
        figure: `exit codes of the gateways: ${codes.join(', ')}`,
        holds: codes.every((code) => code === 0)
      })
    }
  } finally {
    await redis.stop()
  }
}

async function watch({ replicas, token }: Topology): Promise<Watcher | undefined> {
  const targets = replicas.map(({ url }) => new URL(url).host)
  return (await requirePrometheus({ targets, bearerToken: token })).server
}

async function show(topology: Topology, watcher: Watcher | undefined): Promise<void> {
  console.log(`\n  ${topology.replicas.length} gateways, one Redis, one provider, one balancer: do they behave as one?\n`)
  let sent = 0
  for (const prove of [proveOneCall, proveOneLimit, proveResume, proveCancel]) {
    const proof = await prove(topology)
    sent += proof.calls
    print(proof)
  }
  // Before the first of them goes, and its counts with it.
  if (watcher !== undefined) print(await proveScrape(topology, watcher, sent))
  print(await proveDrain(topology, 1))
  print(await proveCrash(topology, 2))
  print(await proveReturn(topology, [1, 2]))
}

function print({ claim, figure, holds }: Omit<Proof, 'calls'>): void {
  console.log(`  ${holds ? 'yes' : 'NO '}  ${claim}\n       ${figure}`)
  if (!holds) process.exitCode = 1
}

async function wait({ balancer, replicas, provider, token }: Topology, watcher: Watcher | undefined): Promise<void> {
  console.log(`
  The gateways, through the balancer  ${balancer.url}
  each of them                        ${replicas.map(({ url }) => url).join('  ')}
  the provider                        ${provider.url}${watcher === undefined ? '' : `\n  Prometheus                          ${watcher.url}`}
  the token of all of them            ${token}

  Stop them with Ctrl+C, or kill ${process.pid}.\n`)
  const alive = setInterval(() => {}, 2 ** 30)
  await Promise.race([once(process, 'SIGINT'), once(process, 'SIGTERM')])
  clearInterval(alive)
}

try {
  const { values } = parseArgs({ options: { keep: { type: 'boolean', default: false } } })
  await main(values.keep)
} catch (error) {
  process.exitCode = 1
  console.error(`millrace: ${error instanceof Error ? error.message : String(error)}`)
}
