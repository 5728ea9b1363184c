/** First in, first out, without moving what stands behind: `Array.shift` of a long array moves it all. */
export class Ring<T> {
  #slots: (T | undefined)[] = Array.from({ length: 16 })
  #first = 0
  size = 0

  push(value: T): void {
    if (this.size === this.#slots.length) this.#grow()
    this.#slots[(this.#first + this.size++) & (this.#slots.length - 1)] = value
  }

  shift(): T | undefined {
    if (this.size === 0) return undefined
    const value = this.#slots[this.#first]
    this.#slots[this.#first] = undefined
    this.#first = (this.#first + 1) & (this.#slots.length - 1)
    this.size--
    return value
  }

  takeAll(): T[] {
    const values: T[] = []
    while (this.size > 0) values.push(this.shift() as T)
    return values
  }

  #grow(): void {
    const { length } = this.#slots
    const larger: (T | undefined)[] = Array.from({ length: length * 2 })
    for (let at = 0; at < length; at++) larger[at] = this.#slots[(this.#first + at) & (length - 1)]
    this.#slots = larger
    this.#first = 0
  }
}
