import { setTimeout as delay } from 'node:timers/promises'
import type { PrometheusServer } from '@millrace/testkit'
import type { Topology } from './topology.ts'
import type { Proof } from './topology-proofs.ts'

export type Watcher = Pick<PrometheusServer, 'url' | 'query' | 'stop'>

const counted = 'sum by (instance) (gen_ai_client_operation_duration_count)'
/** It looks for targets 5 s after its start for the first time. */
const patienceMs = 20_000

/** Prometheus scrapes each replica, and what they count adds up to the calls that were sent. */
export async function proveScrape({ replicas }: Topology, { query }: Watcher, sent: number): Promise<Proof> {
  const until = performance.now() + patienceMs
  let up = 0
  while (up < replicas.length && performance.now() < until) {
    await delay(200)
    up = (await query('sum(up)'))[0]?.value ?? 0
  }
  // The last counts are in the next scrape.
  await delay(500)
  const counts = (await query(counted)).map(({ value }) => value)
  const sum = counts.reduce((total, value) => total + value, 0)
  return {
    claim: 'Prometheus sees each of them, and their counts add up',
    figure: `${up} of ${replicas.length} scraped, ${counts.join(' + ')} = ${sum} calls of ${sent}`,
    holds: up === replicas.length && counts.length === replicas.length && sum === sent,
    calls: 0
  }
}
