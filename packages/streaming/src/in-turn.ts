/** A read that is made while others wait is begun behind the last of them: they come in order, at a cost linear in their number. */
export function inTurn<R>(read: () => Promise<R>): () => Promise<R> {
  let last: Promise<R> | undefined
  return () => {
    const own = last === undefined ? read() : last.then(read, read)
    const free = (): void => {
      if (last === own) last = undefined
    }
    last = own
    own.then(free, free)
    return own
  }
}
