/** Returns a source; told at once, and what it throws is a rejection. */
export async function leave(source: AsyncIterator<unknown>): Promise<void> {
  await source.return?.()
}

/** Not waited for: a generator answers only after the read it is busy with. What it fails with then has no hearer left. */
export function leaveUnheard(source: AsyncIterator<unknown>): void {
  leave(source).catch(() => {})
}
