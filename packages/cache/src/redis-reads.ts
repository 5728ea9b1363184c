/** So many keys a command: enough to spread its cost, few enough that a large value holds up few others. */
const maxKeys = 32

interface Asker {
  resolve(value: string | undefined): void
  reject(error: unknown): void
}

/**
 * Reads that are asked for together, gathered into MGETs: one command, one promise of the client and one deadline for up to
 * 32 of them. Together is until the next tick: until `setImmediate` would gather more where each asker has an event of its
 * own, but cost a lone one 3 us, a turn of the loop more than the client's own. A key that holds another type is as good as
 * absent here; to GET it would be an error.
 */
export function gatherReads(
  send: (args: readonly string[], fits: (reply: unknown) => boolean) => Promise<unknown>
): (key: string) => Promise<string | undefined> {
  let args: string[] = ['MGET']
  let askers: Asker[] = []

  function flush(): void {
    if (askers.length === 0) return // the last command was a full one
    void ask(args, askers)
    args = ['MGET']
    askers = []
  }

  async function ask(command: readonly string[], waiting: readonly Asker[]): Promise<void> {
    try {
      const values = (await send(command, (reply) => isReply(reply, waiting.length))) as readonly (string | null)[]
      for (let index = 0; index < waiting.length; index++) waiting[index]?.resolve(values[index] ?? undefined)
    } catch (error) {
      for (const asker of waiting) asker.reject(error)
    }
  }

  return (key) =>
    new Promise((resolve, reject) => {
      if (askers.length === 0) process.nextTick(flush)
      args.push(key)
      askers.push({ resolve, reject })
      if (askers.length === maxKeys) flush()
    })
}

function isReply(reply: unknown, length: number): boolean {
  return Array.isArray(reply) && reply.length === length && reply.every((value) => value === null || typeof value === 'string')
}
