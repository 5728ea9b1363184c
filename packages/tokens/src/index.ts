// The types of the contract that these functions take, so that nobody has to install core to name them.
export type { BesideMessages, ChatRequest, Message, Tool, Usage } from '@millrace/core'
export { type TokenBudgetOptions, withTokenBudget } from './budget.ts'
export { type Compressed, type CompressOptions, compress } from './compress.ts'
export { type CompressedMessages, type CompressMessagesOptions, compressMessages } from './compress-messages.ts'
export type { TokenCounter } from './counter.ts'
export { type FitOptions, type FitResult, fit, type Summarize, type SummarizeOptions } from './fit.ts'
export { uncountedParts } from './message.ts'
export type { Encoding } from './model.ts'
export {
  type Cost,
  type CostPart,
  contextWindow,
  cost,
  createPrices,
  type Price,
  type PriceOptions,
  type PriceOverride,
  type Prices,
  type PricesOptions
} from './price.ts'
export { createTokenizers, type Tokenizer, type Tokenizers, tokenizerFor } from './tokenizer.ts'
export { type TruncateOptions, truncateText } from './truncate.ts'
