import { requireRedis } from '@millrace/testkit'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { startTopology, type Topology } from '../src/topology.ts'
import {
  type Proof,
  proveCancel,
  proveCrash,
  proveDrain,
  proveOneCall,
  proveOneLimit,
  proveResume,
  proveReturn
} from '../src/topology-proofs.ts'

const { server: redis, skip } = await requireRedis()

describe.skipIf(skip !== undefined)('three gateways on one Redis', () => {
  let topology: Topology
  beforeAll(async () => {
    topology = await startTopology({ redisURL: redis?.url ?? '' })
  })
  afterAll(async () => {
    await topology?.close()
    await redis?.stop()
  })

  // In this order: the last ones end replicas.
  test.each<[string, (topology: Topology) => Promise<Proof>]>([
    ['make one call of one question that all are asked', proveOneCall],
    ['hold one limit', proveOneLimit],
    ['go on with a stream that another began', proveResume],
    ['cancel a stream that another began', proveCancel],
    ['lose no call when one is asked to end', (all) => proveDrain(all, 1)],
    ['lose only what one was answering when it is killed', (all) => proveCrash(all, 2)],
    ['take those back that return', (all) => proveReturn(all, [1, 2])]
  ])('%s', async (_, prove) => {
    const { figure, holds } = await prove(topology)
    expect(holds, figure).toBe(true)
  })

  test('all end with 0, and so does what they started', async () => {
    const pids = topology.replicas.map(({ pid }) => pid)
    expect(await topology.close()).toEqual([0, 0, 0])
    for (const pid of [...pids, topology.provider.pid]) expect(() => process.kill(pid, 0)).toThrow('ESRCH')
    await expect(fetch(topology.balancer.url)).rejects.toThrow('fetch failed')
  })
})
