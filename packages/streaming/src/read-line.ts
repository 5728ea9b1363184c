/**
 * The reads of one iterator that wait, in their order. A linked list: an array of many moves them all when the first leaves.
 * One read alone, as nearly all are, costs two writes.
 */
export class ReadLine<R extends { behind: R | undefined }> {
  first: R | undefined = undefined
  #last: R | undefined = undefined // of two or more

  join(read: R): void {
    const { first } = this
    if (first === undefined) this.first = read
    else {
      const last = first.behind === undefined ? first : (this.#last as R)
      last.behind = read
      this.#last = read
    }
  }

  /** Takes the first off. */
  leave(): R | undefined {
    const { first } = this
    this.first = first?.behind
    return first
  }
}
