import { setTimeout as delay } from 'node:timers/promises'
import type { PrometheusServer } from '@millrace/testkit'
import type { Topology } from './topology.ts'
import type { Proof } from './topology-proofs.ts'

export type Watcher = Pick<PrometheusServer, 'url' | 'query' | 'stop'>

const calls = 'sum(gen_ai_client_operation_duration_count)'
/** It looks for targets 5 s after its start for the first time. */
const patienceMs = 20_000

/** Prometheus scrapes each replica, and the sum of their calls is what the balancer and the rest sent. */
export async function proveScrape({ replicas }: Topology, { query }: Watcher): Promise<Proof> {
  const until = performance.now() + patienceMs
  let up = 0
  while (up < replicas.length && performance.now() < until) {
    await delay(200)
    up = (await query('sum(up)'))[0]?.value ?? 0
  }
  // The last counts are in the next scrape.
  await delay(500)
  const counted = (await query(calls))[0]?.value ?? 0
  const stats = await Promise.all(
    replicas.map(
      async ({ url }) => (await query(`${calls.replace('_count', `_count{instance="${new URL(url).host}"}`)}`))[0]?.value ?? 0
    )
  )
  return {
    claim: 'Prometheus sees each of them',
    figure: `${up} of ${replicas.length} scraped; calls counted: ${stats.join(' + ')} = ${counted}`,
    holds: up === replicas.length && counted > 0 && stats.every((value) => value > 0)
  }
}
