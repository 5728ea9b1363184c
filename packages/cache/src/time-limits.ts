/** What a wait rejects with when its time is up. */
export const late: unique symbol = Symbol('late')

/** Waits that are all equally long. */
export interface TimeLimits {
  /** Settles as `work` does, or rejects with `late`. What `work` does after that is nobody's business any more. */
  within<T>(work: PromiseLike<T>): Promise<T>
}

/** One wait, a link of the chain. A class, for there is one in each call of the store. */
class Wait<T> {
  readonly dueAt: number
  readonly resolve: (value: T) => void
  readonly reject: (error: unknown) => void
  previous: Wait<never> | undefined
  next: Wait<never> | undefined
  over = false

  constructor(dueAt: number, resolve: (value: T) => void, reject: (error: unknown) => void) {
    this.dueAt = dueAt
    this.resolve = resolve
    this.reject = reject
  }
}

/** A timer this late was kept from running: the event loop was blocked. */
const blockedMs = 10
/** What such waits get on top: after a block, the question itself may not have been sent yet. */
const mercyMs = 5

/**
 * Limits waits to `limitMs` each with one timer for all: who comes first is due first, so only the oldest needs one. It
 * stays armed when the chain runs empty, for a timer per call costs more than the call of a store that answers at once; it
 * keeps the process alive only while somebody waits.
 */
export function createTimeLimits(limitMs: number): TimeLimits {
  let first: Wait<never> | undefined
  let last: Wait<never> | undefined
  let timer: NodeJS.Timeout | undefined
  let checking = false
  let merciful = false

  function fire(): void {
    timer = undefined
    if (first === undefined) return // the next one arms it again
    const lateMs = performance.now() - first.dueAt
    if (lateMs > blockedMs && !merciful) {
      merciful = true
      return arm(mercyMs)
    }
    // Timers run before the sockets are read: an answer that is already there must be seen first.
    checking = true
    setImmediate(expire)
  }

  function expire(): void {
    checking = false
    merciful = false
    const now = performance.now()
    while (first !== undefined && first.dueAt <= now) {
      const wait = first
      remove(wait)
      wait.reject(late)
    }
    if (first !== undefined) arm(first.dueAt - now)
  }

  function arm(ms: number): void {
    timer = setTimeout(fire, Math.ceil(ms))
  }

  function add(wait: Wait<never>): void {
    if (last === undefined) {
      first = last = wait
      if (timer !== undefined) timer.ref()
      else if (!checking) arm(limitMs)
    } else {
      wait.previous = last
      last = last.next = wait
    }
  }

  function remove(wait: Wait<never>): void {
    wait.over = true
    if (wait.previous === undefined) first = wait.next
    else wait.previous.next = wait.next
    if (wait.next === undefined) last = wait.previous
    else wait.next.previous = wait.previous
    wait.previous = wait.next = undefined
    if (first === undefined) timer?.unref()
  }

  return {
    within: <T>(work: PromiseLike<T>) =>
      new Promise<T>((resolve, reject) => {
        const wait = new Wait<T>(performance.now() + limitMs, resolve, reject)
        add(wait)
        work.then(
          (value) => {
            if (wait.over) return
            remove(wait)
            resolve(value)
          },
          (error: unknown) => {
            if (wait.over) return
            remove(wait)
            reject(error)
          }
        )
      })
  }
}
