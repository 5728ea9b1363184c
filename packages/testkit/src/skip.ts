/** One visible line where something is missing; under CI (`CI` set in the environment) a failure instead. */
export function skipUnlessCI(what: string, error: unknown): { readonly skip: string } {
  if (process.env.CI !== undefined && process.env.CI !== '' && process.env.CI !== 'false') throw error
  const skip = `tests that need ${what} are skipped: ${error instanceof Error ? error.message : String(error)}`
  console.warn(skip)
  return { skip }
}
