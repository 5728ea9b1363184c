// Of an entry's state: there is an outcome to replay; it is a value; one recorded failure (they are counted from this bit up);
// not free.
const recordedBit = 1
const fulfilledBit = 2
const failure = 4
const used = 0x8000_0000

/**
 * Where each item's outcome stands in the file. Typed arrays with open addressing, 40 bytes an item at most half full: a
 * million items in a `Map` of strings would be three times that, all of it for the garbage collector to walk.
 */
export class JournalIndex {
  size = 0
  /** Entries with an outcome to replay. */
  recorded = 0
  #mask = 1023
  /** Four words of digest each. */
  #keys = new Uint32Array(1024 * 4)
  #offsets = new Float64Array(1024)
  #lengths = new Uint32Array(1024)
  /** 0 is a free place. */
  #states = new Uint32Array(1024)
  /** How often the item has been seen in this run; kept with its first occurrence. */
  #seen = new Uint32Array(1024)
  /** From the number of an entry, which stays, to its place, which moves when the table grows. */
  #places = new Uint32Array(512)
  #numbers = new Uint32Array(1024)

  /** The number of the entry of the `nth` item with this digest; made where there is none. */
  entry(digest: Buffer, nth: number): number {
    if (this.size * 2 >= this.#states.length) this.#grow()
    const place = this.#find(
      digest.readUInt32LE(0),
      digest.readUInt32LE(4),
      digest.readUInt32LE(8),
      (digest.readUInt32LE(12) + nth) >>> 0
    )
    if (this.#states[place] !== 0) return this.#numbers[place] as number
    const key = place * 4
    this.#keys[key] = digest.readUInt32LE(0)
    this.#keys[key + 1] = digest.readUInt32LE(4)
    this.#keys[key + 2] = digest.readUInt32LE(8)
    this.#keys[key + 3] = digest.readUInt32LE(12) + nth
    this.#states[place] = used
    this.#numbers[place] = this.size
    this.#places[this.size] = place
    return this.size++
  }

  /** Which occurrence of its digest this is, in this run: 0, 1, 2. `first` is the entry of occurrence 0. */
  occurrence(first: number): number {
    const place = this.#places[first] as number
    const nth = this.#seen[place] as number
    this.#seen[place] = nth + 1
    return nth
  }

  /** A run begins: occurrences are counted from 0. */
  restart(): void {
    this.#seen.fill(0)
  }

  isRecorded(entry: number): boolean {
    return ((this.#states[this.#places[entry] as number] as number) & recordedBit) !== 0
  }

  failures(entry: number): number {
    return ((this.#states[this.#places[entry] as number] as number) & ~used) >>> 2
  }

  /** Whether its outcome is a value, which no later failure replaces: it was paid for. */
  isFulfilled(entry: number): boolean {
    return ((this.#states[this.#places[entry] as number] as number) & fulfilledBit) !== 0
  }

  locate(entry: number): { readonly offset: number; readonly length: number } {
    const place = this.#places[entry] as number
    return { offset: this.#offsets[place] as number, length: this.#lengths[place] as number }
  }

  /** The later line of an item is the one that holds, but for a failure behind a value. */
  put(entry: number, offset: number, length: number, status: 'fulfilled' | 'rejected', use: 'replay' | 'run again'): void {
    if (status === 'rejected' && this.isFulfilled(entry)) return
    const place = this.#places[entry] as number
    this.#offsets[place] = offset
    this.#lengths[place] = length
    let state = this.#states[place] as number
    if ((state & recordedBit) !== 0) this.recorded--
    if (use === 'replay') this.recorded++
    if (status === 'rejected') state += failure
    else state |= fulfilledBit
    this.#states[place] = use === 'replay' ? state | recordedBit : state & ~recordedBit
  }

  #find(a: number, b: number, c: number, d: number): number {
    const keys = this.#keys
    // The digest is random already; `d` counts occurrences, so it is mixed in.
    let place = (a ^ Math.imul(d, 0x9e3779b1)) & this.#mask
    for (;;) {
      const key = place * 4
      if (this.#states[place] === 0) return place
      if (keys[key] === a && keys[key + 1] === b && keys[key + 2] === c && keys[key + 3] === d) return place
      place = (place + 1) & this.#mask
    }
  }

  #grow(): void {
    const old = {
      keys: this.#keys,
      offsets: this.#offsets,
      lengths: this.#lengths,
      states: this.#states,
      seen: this.#seen,
      places: this.#places
    }
    const length = old.states.length * 2
    this.#mask = length - 1
    this.#keys = new Uint32Array(length * 4)
    this.#offsets = new Float64Array(length)
    this.#lengths = new Uint32Array(length)
    this.#states = new Uint32Array(length)
    this.#seen = new Uint32Array(length)
    this.#numbers = new Uint32Array(length)
    this.#places = new Uint32Array(length / 2)
    for (let entry = 0; entry < this.size; entry++) {
      const from = old.places[entry] as number
      const words = old.keys.subarray(from * 4, from * 4 + 4)
      const place = this.#find(words[0] as number, words[1] as number, words[2] as number, words[3] as number)
      this.#keys.set(words, place * 4)
      this.#offsets[place] = old.offsets[from] as number
      this.#lengths[place] = old.lengths[from] as number
      this.#states[place] = old.states[from] as number
      this.#seen[place] = old.seen[from] as number
      this.#numbers[place] = entry
      this.#places[entry] = place
    }
  }
}
