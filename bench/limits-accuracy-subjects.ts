// Limits of 1,000 units a second, asked for by many who never have enough.

/** Waits for leave and gives the units it was worth. */
export type Leave = () => Promise<number>

export const perSecond = 1000

const subjects: Readonly<Record<string, (url: string, namespace: string) => Promise<Leave>>> = {
  requests: byRequests,
  /** Each call is expected to take 40 and takes 20. */
  tokens: byTokens,
  'p-queue with intervalCap': () => intervalCap(false),
  'p-queue with strict intervalCap': () => intervalCap(true)
}

export async function openLeave(name: string, url: string, namespace: string): Promise<Leave> {
  const open = subjects[name]
  if (open === undefined) throw new TypeError(`${name} is no subject; they are ${Object.keys(subjects).join(', ')}`)
  return open(url, namespace)
}

async function byRequests(url: string, namespace: string): Promise<Leave> {
  const { createLimiter } = await import('@millrace/limits')
  const limiter = createLimiter({
    limits: [{ requestsPerMinute: perSecond * 60, windowMs: 1000 }],
    ...(await storeAt(url, namespace))
  })
  return () => limiter.run({ provider: 'p', model: 'm' }, () => 1)
}

async function byTokens(url: string, namespace: string): Promise<Leave> {
  const { createLimiter } = await import('@millrace/limits')
  const limiter = createLimiter({
    limits: [{ tokensPerMinute: perSecond * 60, windowMs: 1000 }],
    ...(await storeAt(url, namespace))
  })
  return () =>
    limiter.run({ provider: 'p', model: 'm', tokens: 40 }, (permit) => {
      permit.settle({ tokens: 20 })
      return 20
    })
}

async function storeAt(url: string, namespace: string): Promise<object> {
  if (url === '') return {}
  const { createRedisLimits } = await import('@millrace/limits/redis')
  const { createClient } = await import('@redis/client')
  const client = await createClient({ url }).connect()
  return { store: createRedisLimits({ namespace, command: (args) => client.sendCommand(args) }), processes: 1 }
}

async function intervalCap(strict: boolean): Promise<Leave> {
  const { default: PQueue } = await import('p-queue')
  const queue = new PQueue({ interval: 1000, intervalCap: perSecond, strict })
  return () => queue.add(async () => 1)
}
